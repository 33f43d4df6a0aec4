"""A plan as people and programs read it: tables, a verdict in words, JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxrl_llm.plan.account import Plan
from jaxrl_llm.plan.compiled import Compiled, whole_stacks
from jaxrl_llm.plan.hlo import hidden_share
from jaxrl_llm.plan.mend import Mend
from jaxrl_llm.plan.roofline import Roofline
from jaxrl_llm.plan.target import Target

MOST = 6  # kinds of collectives of a program that are named


def show(
    name: str, plan: Plan, target: Target, mend: Mend | None, compiled: Sequence[Compiled], roofline: Roofline | None
) -> None:
    """Print all of it."""
    console = Console(width=110, highlight=False, soft_wrap=False)
    shape = " x ".join(f"{axis} {size}" for axis, size in plan.parts.mesh.shape.items() if size > 1)
    where = target.name + (f" ({shape})" if shape else "")
    console.print(f"{name}: {plan.config.algo.kind}, {plan.parts.n_params:,} parameters on {where}", markup=False)
    console.print(table_of_lines(plan))
    if compiled:
        console.print("\nThe compiler's account, a device: compiled, not run", style="dim")
        console.print(table_of_programs(plan, compiled))
    if any(each.talk for each in compiled):
        console.print("\nWhat devices send to each other, hidden where they compute meanwhile", style="dim")
        console.print(table_of_collectives(compiled))
    for text in verdict(plan, target, mend, compiled, roofline):
        console.print(text, markup=False)


def table_of_lines(plan: Plan) -> Table:
    """Bytes by phase and role."""
    table = new_table(("phase", "role", "what"), ("all devices", "a device"))
    before = None
    for line in plan.lines:
        about, style = "" if line.exact else "~ ", "" if line.counted else "dim"
        device = about + gib(line.size.device) if line.counted else f"({gib(line.size.device)})"
        phase = line.phase if line.phase != before else ""
        table.add_row(phase, line.role, line.what, gib(line.size.total), device, style=style)
        before = line.phase
    return table


def table_of_programs(plan: Plan, compiled: Sequence[Compiled]) -> Table:
    """Memory of each, beside what was planned for its phase."""
    table = new_table(
        ("program",), ("arguments", "temporaries", "beside", "together", "planned", "sent", "hidden", "took")
    )
    for each in compiled:
        sent = sum(c.sent for c in each.talk)
        table.add_row(
            each.name,
            *map(gib, (each.arguments, each.temporaries, each.beside, each.peak, plan.phase(each.phase))),
            gib(round(sent)) if sent else "",
            f"{hidden_share(each.talk):.0%}" if sent else "",
            f"{each.seconds:.0f} s",
        )
    return table


def table_of_collectives(compiled: Sequence[Compiled]) -> Table:
    """Of each program those that send most."""
    table = new_table(("program", "collective", "of"), ("devices", "times", "sent a device", "hidden"))
    for each in compiled:
        for i, c in enumerate(each.talk[:MOST]):
            of = (str(c.group), str(c.times), gib(round(c.sent)), "yes" if c.hidden else "no")
            table.add_row("" if i else each.name, c.kind, c.shape, *of)
        if rest := each.talk[MOST:]:
            table.add_row("", f"{len(rest)} more kinds", "", "", "", gib(round(sum(c.sent for c in rest))), "")
    return table


def new_table(texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """With these columns, as all tables here look."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in texts:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def verdict(
    plan: Plan, target: Target, mend: Mend | None, compiled: Sequence[Compiled], roofline: Roofline | None
) -> list[str]:
    """Lines of text: phases, whether it fits and what would make it, speed, disk, notes."""
    peak, phase, limit = plan.peak.device, f"`{plan.peak.name}`", target.limit
    texts = ["phases, a device: " + ", ".join(f"{each.name} {gib(each.device)}" for each in plan.phases)]
    if compiled:
        fullest = max(compiled, key=lambda each: each.peak)
        peak, phase = fullest.peak, f"`{fullest.name}` (compiled)"
    texts += [f"{each.name}, the compiler: {each.refused}" for each in compiled if each.refused]
    if limit is None:
        texts += [f"peak {gib(peak)} a device, in {phase}; what these devices have is not known: --memory"]
    elif fits(plan, limit, compiled):
        texts += [f"fits: peak {gib(peak)} of {gib(limit)} a device, in {phase}"]
    else:
        texts += [f"does not fit: peak {gib(peak)}, in {phase}, and a device has {gib(limit)}"]
        texts += [
            "  try: no override that was tried makes it fit" if mend is None else f"  try: {describe(mend, target)}"
        ]
    for each in compiled:
        stacks = whole_stacks(plan, each.talk)
        texts += [f"warning: {each.name} gathers a whole stack of layers, {c.shape}" for c in stacks]
    if roofline is not None:
        limits = (
            f"{name} {max(by.values()):.3g} s ({roofline.limit(name)})" for name, by in roofline.seconds_by.items()
        )
        texts += [f"at most {roofline.tokens_per_s:,.0f} tokens/s, by the roofline: at least {', '.join(limits)}"]
    n, one = plan.n_checkpoints, plan.checkpoint
    texts += [f"a checkpoint: {gib(one)} on disk; {n} kept: {gib(n * one)}, and one more while it is written"]
    return [*texts, *(f"note: {note}" for note in plan.notes)]


def fits(plan: Plan, limit: int, compiled: Sequence[Compiled]) -> bool:
    """What the compiler says, where it was asked; else what was planned."""
    peak = max((each.peak for each in compiled), default=plan.peak.device)
    return peak <= limit and not any(each.refused for each in compiled)


def describe(mend: Mend, target: Target) -> str:
    """What to say of it."""
    more = "" if mend.n_devices == len(target.devices) else f" on {mend.n_devices} such devices"
    return f"{' '.join(mend.overrides)}{more}: {gib(mend.peak)}"


def gib(n_bytes: int) -> str:
    """`12.34 GiB`, `56.7 MiB`, `890 B`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.2f} {unit}" if unit == "GiB" else f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} B"


def to_json(
    plan: Plan, target: Target, mend: Mend | None, compiled: Sequence[Compiled], roofline: Roofline | None
) -> dict[str, Any]:
    """The figures, in bytes and seconds."""
    lines = [(asdict(line), line.size) for line in plan.lines]
    return {
        "kind": plan.config.algo.kind,
        "parameters": plan.parts.n_params,
        "devices": target.name,
        "mesh": dict(plan.parts.mesh.shape),
        "lines": [line | {"size": size.total, "device": size.device, "host": size.host} for line, size in lines],
        "phases": {phase.name: phase.device for phase in plan.phases},
        "peak": {"phase": plan.peak.name, "device": plan.peak.device},
        "limit": target.limit,
        "fits": None if target.limit is None else fits(plan, target.limit, compiled),
        "try": None if mend is None else asdict(mend),
        "checkpoint": plan.checkpoint,
        "checkpoints": plan.n_checkpoints,
        "compiled": [
            asdict(each)
            | {"peak": each.peak, "hidden": hidden_share(each.talk), "stacks": len(whole_stacks(plan, each.talk))}
            for each in compiled
        ],
        "roofline": None if roofline is None else asdict(roofline) | {"tokens_per_s": roofline.tokens_per_s},
        "notes": list(plan.notes),
    }
