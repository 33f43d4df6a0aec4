"""What devices say to each other in a compiled program: its collectives, counted from the compiler's own text.

A collective in a loop counts as often as the loop turns; one that the compiler cut into pieces, fused with the
computation that hides it, counts once.  Bytes are what a device sends around a ring.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
BYTES |= {"s64": 8, "u64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BUSY = {"fusion", "convolution", "dot", "custom-call", "while", "conditional"}  # computation, as against moving data

INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
CALLED = re.compile(r"(?:calls|body|branch_computations|true_computation|false_computation|called_computations)=")


@dataclass(frozen=True)
class Collective:
    """One kind of talk between devices."""

    kind: str
    arrays: tuple[str, ...]  # of one of them, as the compiler writes them, largest first: bf16[4096,14336]
    group: int  # devices that talk
    times: int  # a run of the program
    sent: float  # bytes by each device, all times together
    hidden: bool  # there is computation while they travel

    @property
    def shape(self) -> str:
        """Of its largest array."""
        return self.arrays[0] if self.arrays else ""


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    op: str
    rest: str


def collectives(text: str) -> list[Collective]:
    """The collectives of an optimised module (`compiled.as_text()`), those that send most first."""
    entry, computations = _parse(text)
    times = _times(entry, computations)
    found: dict[tuple[str, str], Collective] = {}
    for number, (name, body) in enumerate(computations.items()):
        if not times[name]:
            continue
        for at, each in enumerate(body):
            kind = each.op.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=(\d+)", each.rest)
            fused = "chain_id=" in each.rest
            hidden = fused or (each.op.endswith("-start") and _busy_until_done(body, at))
            shapes = _shapes(each.shape)
            if each.op.endswith("-start") and kind != "all-reduce":  # operands, as many results, counters
                shapes = [shape for shape in shapes if not shape[0].endswith("[]")]
                shapes = shapes[len(shapes) // 2 :]
            size, group = sum(n for _, n in shapes), _group(each.rest, text)
            arrays = tuple(name for name, _ in sorted(shapes, key=lambda shape: -shape[1]))
            sent = times[name] * size * _share(kind, group)
            one = Collective(kind, arrays, group, times[name], sent, hidden)
            key = (kind, channel[1] if channel else f"{number}.{at}")
            if key not in found or found[key].sent < one.sent:
                found[key] = one
    merged: dict[tuple[str, tuple[str, ...], int, bool], Collective] = {}
    for c in found.values():
        if c.group > 1:
            key_ = (c.kind, c.arrays, c.group, c.hidden)
            before = merged.get(key_)
            n, sent = (before.times, before.sent) if before else (0, 0.0)
            merged[key_] = Collective(*key_[:3], n + c.times, sent + c.sent, c.hidden)
    return sorted(merged.values(), key=lambda c: -c.sent)


def sides_of(shape: str) -> list[int]:
    """Of `bf16[4096,14336]`."""
    return [int(n) for n in re.findall(r"\d+", shape.partition("[")[2])]


def hidden_share(found: Iterable[Collective]) -> float:
    """Share of the bytes that travel while something is computed."""
    every = list(found)
    total = sum(c.sent for c in every)
    return sum(c.sent for c in every if c.hidden) / total if total else 1.0


def _parse(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    entry, computations, body = "", dict[str, list[_Instruction]](), list[_Instruction]()
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head and not line.startswith(" "):
            body = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif match := INSTRUCTION.match(line):
            body.append(_Instruction(*match.groups()))
    return entry, computations


def _times(entry: str, computations: dict[str, list[_Instruction]]) -> Counter[str]:
    """How often each computation runs in one run of the program; both branches of a choice are counted."""
    callers = dict[str, list[tuple[str, int]]]()
    for name, body in computations.items():
        for each in body:
            turns = _turns(each.rest, computations) if each.op == "while" else 1
            for match in CALLED.finditer(each.rest):
                names = re.match(r"\{[^}]*\}|%?[\w.\-]+", each.rest[match.end() :])
                for called in re.findall(r"[\w.\-]+", names[0]) if names else ():
                    callers.setdefault(called, []).append((name, turns))
    found = Counter[str]({entry: 1})

    def of(name: str) -> int:
        if name not in found:
            found[name] = sum(of(caller) * turns for caller, turns in callers.get(name, ()))
        return found[name]

    for name in computations:
        of(name)
    return found


def _turns(rest: str, computations: dict[str, list[_Instruction]]) -> int:
    """Of a `while` that counts to a constant; 1 where the program does not say, as of tokens that are written."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    body = computations.get(condition[1] if condition else "", [])
    if not body or body[-1].op != "compare" or "direction=LT" not in body[-1].rest:
        return 1
    for each in body:
        number = re.match(r"(\d+)\)", each.rest)
        if each.op == "constant" and number and re.search(rf"%{re.escape(each.name)}\b", body[-1].rest):
            return int(number[1])
    return 1


def _busy_until_done(body: list[_Instruction], at: int) -> bool:
    """Whether something is computed between a start and its done."""
    for each in body[at + 1 :]:
        if each.op.endswith("-done") and f"%{body[at].name})" in f"%{each.rest}".replace(",", ")"):
            return False
        if each.op in BUSY:
            return True
    return False


def _shapes(text: str) -> list[tuple[str, int]]:
    """Arrays and their bytes."""
    found = re.findall(r"\b(\w+)\[([\d,]*)\]", text)
    return [(f"{d}[{s}]", BYTES[d] * math.prod(int(n) for n in s.split(",") if n)) for d, s in found if d in BYTES]


def _group(rest: str, text: str) -> int:
    """Devices of one group."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=\w*\[([^\]]*)\] *\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", match[2]))
    partitions = re.search(r"num_partitions=(\d+)", text)
    return int(partitions[1]) if partitions else 1


def _share(kind: str, group: int) -> float:
    """Bytes that a device sends for each byte of the result, around a ring."""
    others = (group - 1) / group
    return {"all-reduce": 2 * others, "reduce-scatter": group - 1.0, "collective-permute": 1.0}.get(kind, others)
