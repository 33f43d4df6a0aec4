"""Tables of Markdown and what stands in their cells, for the reports of runs and of evaluations."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrl_llm.training.console import printable

UNKNOWN = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """The first columns at the left, the others at the right; columns of which nothing is known are left out."""
    rows = list(rows)
    known = [n for n in range(len(head)) if n == 0 or any(row[n] != UNKNOWN for row in rows)]
    ruler = ["---"] * left + ["---:" if head[left] else "---"] * (len(head) - left)
    lines = [[line[n] for n in known] for line in (head, ruler, *rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(row: Mapping[str, Any], name: str, places: int = 4, percent: bool = False) -> str:
    """`–` where the row has no such figure; null stands for one that is not finite."""
    value = row.get(name, math.nan)
    if value is None:
        return "not finite"
    return UNKNOWN if math.isnan(value) else minus(f"{100 * value if percent else value:z,.{places}f}")


def change(before: Mapping[str, Any], after: Mapping[str, Any], name: str, places: int, percent: bool) -> list[str]:
    """Before, after, and by how much it moved."""
    both = before.get(name) is not None and after.get(name) is not None
    moved = minus(f"{(100 if percent else 1) * (after[name] - before[name]):+.{places}f}") if both else UNKNOWN
    return [number(before, name, places, percent), number(after, name, places, percent), moved]


def interval(bounds: Sequence[float | None]) -> str:
    """Two shares, in per cent."""
    low, high = bounds
    return UNKNOWN if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"


def code(value: Any) -> str:
    """A value as inline code; backquotes and newlines in it cannot end the code."""
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return "`" + text.replace("\n", "\\n").replace("`", "'") + "`"


def minus(text: str) -> str:
    """A number with the minus sign of print."""
    return text.replace("-", "−")
