"""What a stage did, in figures: before and after, on the same held-out set.

Of training: `accuracy` of the first task, else of held-out pairs; `loss` and `margin` of the set `validation`, else of
the first other one; of rollouts `score` and `kl`, in the first round and at the end.  Of rejection sampling those of
answers as they were drawn and as they were selected; of an evaluation what it measured.  Intervals are of 95 %.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrl_llm.pipeline.stage import Stage
from jaxrl_llm.report.collect import named
from jaxrl_llm.types import Json

REPORT = "report.json"
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
TASK = "parsed"  # a figure that only tasks have
Row = Mapping[str, Any]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Figures:
    """Flat numbers; `before` is empty where nothing was measured then."""

    before: Numbers = field(default_factory=dict)
    after: Numbers = field(default_factory=dict)
    sets: dict[str, Json] = field(
        default_factory=dict
    )  # by held-out set: {"before": Numbers or None, "after": Numbers}
    report: Path | None = None  # of the stage itself


def figures_of(stage: Stage) -> Figures:
    """From the report.json of a stage; none where it has left none."""
    # `evaluate --out {eval}/x` reports below the stage's own directory.
    found = [stage.directory / REPORT, *sorted(stage.directory.glob(f"*/{REPORT}"))]
    file = next((each for each in found if each.is_file()), None)
    if file is None:
        return Figures()
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return Figures()
    read = READERS.get(stage.verb)
    before, after, sets = read(said) if read is not None and isinstance(said, dict) else ({}, {}, {})
    page = file.with_suffix(".md")
    return Figures(before, after, sets, page if page.is_file() else None)


def of_sets(sets: Mapping[str, tuple[Row | None, Row]]) -> tuple[Numbers, Numbers]:
    """Before and after of a run, from its rows by held-out set."""
    tasks = [name for name, (_, last) in sets.items() if TASK in last]
    others = [name for name in sets if name not in tasks]
    main = "validation" if "validation" in others else next(iter(others), None)
    wanted = {} if main is None else {main: ("loss", "margin", *(() if tasks else ACCURACY))}
    wanted |= dict.fromkeys(tasks[:1], ACCURACY)
    sides: list[Numbers] = [{}, {}]
    for name, keys in wanted.items():
        for side, row in zip(sides, sets[name], strict=True):
            there = numbers(named(row or {}))
            side |= {key: there[key] for key in keys if key in there}
    return sides[0], sides[1]


def numbers(row: Row) -> Numbers:
    """What of a row is a finite number."""
    plain = {name: x for name, x in row.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    return {name: float(x) for name, x in plain.items() if name != "step" and math.isfinite(x)}


def _of_training(said: Json) -> tuple[Numbers, Numbers, dict[str, Json]]:
    evals = {name: (each.get("before"), each["last"]) for name, each in said.get("evals", {}).items()}
    before, after = of_sets(evals)
    learnt = said.get("learnt") or {}
    for side, name in ((before, "first"), (after, "last")):
        there = numbers(learnt.get(name, {}))
        side |= {key: there[key] for key in ("score", "kl") if key in there}
    sets = {name: {"before": row and numbers(row), "after": numbers(last)} for name, (row, last) in evals.items()}
    return before, after, sets


def _of_rejection(said: Json) -> tuple[Numbers, Numbers, dict[str, Json]]:
    return numbers(said.get("before") or {}), numbers(said.get("after") or {}), {}


def _of_evaluation(said: Json) -> tuple[Numbers, Numbers, dict[str, Json]]:
    suite = said.get("suite")
    if suite == "task":
        return _bounded(said.get("before") or {}), _bounded(said["greedy"]), {}
    if suite == "perplexity":
        sets: dict[str, Json] = {n: {"before": None, "after": numbers(each)} for n, each in said["domains"].items()}
        return {}, numbers(next(iter(said["domains"].values()), {})), sets
    if suite == "rewardbench":
        sets = {name: {"before": None, "after": _bounded(each)} for name, each in said["subsets"].items()}
        whole: Row = said.get("overall") or next(iter(said["sections"].values()), {})
        return {}, _bounded(whole), sets
    return {}, numbers(said), {}


def _bounded(row: Row) -> Numbers:
    """With an accuracy's interval as numbers."""
    low_high = row.get("interval") if "accuracy" in row else None
    bounds = zip(ACCURACY[1:], low_high, strict=True) if isinstance(low_high, list | tuple) else ()
    return numbers({**row, **dict(bounds)})


READERS: Mapping[str, Callable[[Json], tuple[Numbers, Numbers, dict[str, Json]]]] = {
    "train": _of_training,
    "reject": _of_rejection,
    "evaluate": _of_evaluation,
}

# Figure -> its name, factor, decimal places, unit: those that are shown, the most telling first.
SHOWN: Mapping[str, tuple[str, float, int, str]] = {
    "accuracy": ("accuracy", 100, 1, " %"),
    "margin": ("margin", 1, 3, ""),
    "score": ("reward", 1, 3, ""),
    "kl": ("KL", 1, 2, ""),
    "loss": ("loss", 1, 3, ""),
}


def moved(name: str, before: Numbers, after: Numbers, arrow: str = "->") -> str | None:
    """`12.0 -> 46.2` of a figure in SHOWN, without its unit; None where it is not known."""
    _, factor, places, _ = SHOWN[name]
    both = [f"{factor * side[name]:z.{places}f}" for side in (before, after) if name in side]
    return f" {arrow} ".join(both) if name in after else None


def summary(before: Numbers, after: Numbers, most: int = 3) -> str:
    """`accuracy 12.0 -> 46.2 %  loss 0.715 -> 0.063`."""
    texts = {name: moved(name, before, after) for name in SHOWN}
    parts = [f"{SHOWN[name][0]} {text}{SHOWN[name][3]}" for name, text in texts.items() if text is not None]
    return "  ".join(parts[:most])
