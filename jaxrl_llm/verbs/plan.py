"""`plan CONFIG`: how much memory a run needs, by role and per device, and whether it fits; nothing is allocated."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import add_config

if TYPE_CHECKING:
    from jaxrl_llm.plan import Compiled, Mend, Plan, Target

HELP = "how much memory a run needs on each device, by role and phase, and whether it fits: from shapes, in seconds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_config(parser)
    parser.add_argument("--chip", metavar="NAME", help="fit devices that are not here: H100, A100 80GB, v5e, v5p ...")
    parser.add_argument("--devices", metavar="N", type=int, help="so many of them (default 1, or all that are here)")
    parser.add_argument("--memory", metavar="SIZE", help="fit this much a device: 80GiB")
    parser.add_argument("--compile", action="store_true", help="also ask the compiler what the step needs, here")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.epilog = "Neither weights nor data are read: of init_from and reward models the config is enough."


def run(args: argparse.Namespace) -> int:
    """Plan and print; returns 0, whether it fits or not."""
    from jaxrl_llm.config import load
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.plan import Traces, compile_step, find_mend, make_plan, make_target

    runtime.start()
    target, traces = make_target(args.chip, args.memory, args.devices), Traces()
    if args.compile and not target.is_here:
        raise UserError("--compile compiles for the devices that are here\n  mend: leave out --chip and --devices")
    plan = make_plan(load(args.config, args.overrides), target, traces)
    mend = None
    if target.limit is not None and plan.peak.device > target.limit:
        mend = find_mend(plan, target, lambda more: load(args.config, [*args.overrides, *more]), traces)
    compiled = compile_step(plan) if args.compile else None
    if args.json:
        write_json(Path(args.json), to_json(plan, target, mend, compiled))
    show(args.config, plan, target, mend, compiled)
    return 0


def show(name: str, plan: "Plan", target: "Target", mend: "Mend | None", compiled: "Compiled | None") -> None:
    """A table of lines by phase, then what follows from it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=100, highlight=False, soft_wrap=False)
    shape = " x ".join(f"{axis} {size}" for axis, size in plan.parts.mesh.shape.items() if size > 1)
    where = target.name + (f" ({shape})" if shape else "")
    console.print(f"{name}: {plan.config.algo.kind}, {plan.parts.n_params:,} parameters on {where}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("phase", "role", "what"):
        table.add_column(column, overflow="fold")
    table.add_column("all devices", justify="right")
    table.add_column("a device", justify="right")
    before = None
    for line in plan.lines:
        about, style = "" if line.exact else "~ ", "" if line.counted else "dim"
        device = about + gib(line.size.device) if line.counted else f"({gib(line.size.device)})"
        device = f"host {gib(line.size.host)}" if line.size.host else device
        phase = line.phase if line.phase != before else ""
        table.add_row(phase, line.role, line.what, gib(line.size.total), device, style=style)
        before = line.phase
    console.print(table)
    for text in verdict(plan, target, mend, compiled):
        console.print(text, markup=False)


def verdict(plan: "Plan", target: "Target", mend: "Mend | None", compiled: "Compiled | None") -> list[str]:
    """Lines of text: phases, whether it fits and what would make it, disk, the compiler's figures, notes."""
    peak, limit = plan.peak, target.limit
    texts = ["phases, a device: " + ", ".join(f"{phase.name} {gib(phase.device)}" for phase in plan.phases)]
    if limit is None:
        texts += [f"peak {gib(peak.device)} a device, in `{peak.name}`; what these devices have is not known: --memory"]
    elif peak.device <= limit:
        texts += [f"fits: peak {gib(peak.device)} of {gib(limit)} a device, in `{peak.name}`"]
    else:
        texts += [f"does not fit: peak {gib(peak.device)}, in `{peak.name}`, and a device has {gib(limit)}"]
        texts += [
            "  try: no override that was tried makes it fit" if mend is None else f"  try: {describe(mend, target)}"
        ]
    n, one = plan.n_checkpoints, plan.checkpoint
    texts += [f"a checkpoint: {gib(one)} on disk; {n} kept: {gib(n * one)}, and one more while it is written"]
    if compiled is not None:
        texts += [
            f"the compiler: arguments {gib(compiled.arguments)} (here {gib(compiled.planned_arguments)}), temporaries "
            f"{gib(compiled.temporaries)} (here {gib(compiled.planned_temporaries)}) a device"
        ]
    return [*texts, *(f"note: {note}" for note in plan.notes)]


def describe(mend: "Mend", target: "Target") -> str:
    """What to say of it."""
    more = "" if mend.n_devices == len(target.devices) else f" on {mend.n_devices} such devices"
    return f"{' '.join(mend.overrides)}{more}: {gib(mend.peak)}"


def gib(n_bytes: int) -> str:
    """`12.34 GiB`, `56.7 MiB`, `890 B`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.2f} {unit}" if unit == "GiB" else f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} B"


def to_json(plan: "Plan", target: "Target", mend: "Mend | None", compiled: "Compiled | None") -> dict[str, Any]:
    """The figures, in bytes."""
    from dataclasses import asdict

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
        "fits": None if target.limit is None else plan.peak.device <= target.limit,
        "try": None if mend is None else asdict(mend),
        "checkpoint": plan.checkpoint,
        "checkpoints": plan.n_checkpoints,
        "compiled": None if compiled is None else asdict(compiled),
        "notes": list(plan.notes),
    }


def write_json(path: Path, json_: dict[str, Any]) -> None:
    """Raises UserError where it cannot be written."""
    try:
        path.write_text(json.dumps(json_, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}") from error
