"""The picture of a pipeline: what each stage did to the accuracy, and how well its judges judge."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxrl_llm.pipeline.figures import ACCURACY, TASK
from jaxrl_llm.plots import EVALS, INK, TRAIN, dress
from jaxrl_llm.types import Json

ASIDE = 0.16  # from the middle of a stage's place to where before and after stand
Sides = tuple[Json | None, Json]  # before, after


def draw(stages: Mapping[str, Json]) -> Figure | None:
    """Accuracy on tasks through the stages that train a policy, that on held-out pairs of answers beside it.

    `stages` are those of report.json.  None where no accuracy is known.
    """
    trained = {name: each for name, each in stages.items() if each["verb"] == "train" and each["after"]}
    tasks = {name: sides for name, each in trained.items() if (sides := _first(each, is_task=True)) is not None}
    pairs = {name: sides for name, each in trained.items() if (sides := _first(each, is_task=False)) is not None}
    panels = [panel for panel in (tasks, pairs) if panel]
    if not panels:
        return None
    widths = [max(3.0, 1.2 + 0.95 * len(panel)) for panel in panels]
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(max(4.6, sum(widths)), 3.9), layout=engine)
    grid = figure.add_gridspec(1, len(panels), width_ratios=widths)
    for column, panel in enumerate(panels):
        axes = figure.add_subplot(grid[0, column])
        if panel is tasks:
            _panel(axes, panel, "Right answers", TRAIN)
        else:
            _panel(axes, panel, "Better answer told", EVALS[0])
            axes.axhline(50, color=INK, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    return figure


def _first(stage: Json, is_task: bool) -> Sides | None:
    """Of the first task with an accuracy, or of the set `validation` or first one of pairs."""
    found = {
        name: (sides["before"], sides["after"])
        for name, sides in stage["sets"].items()
        if "accuracy" in sides["after"] and (TASK in sides["after"]) == is_task
    }
    return found.get("validation", next(iter(found.values()), None))


def _panel(axes: Axes, stages: Mapping[str, Sides], title: str, color: str) -> None:
    """Hollow before, full after, each with its interval."""
    dress(axes, title, None, pad=20)
    axes.annotate(
        "%, held-out; ○ before, ● after; 95 % intervals", xy=(0, 1), xycoords="axes fraction", xytext=(0, 7),
        textcoords="offset points", fontsize=8, color=INK,
    )  # fmt: skip
    axes.grid(axis="x", visible=False)
    for place, (before, after) in enumerate(stages.values()):
        at = place + ASIDE
        if before is not None and "accuracy" in before:
            start = place - ASIDE
            axes.plot([start, at], [100 * before["accuracy"], 100 * after["accuracy"]], color=color, linewidth=1.2)
            _point(axes, start, before, color, "white")
        else:
            at = place
        _point(axes, at, after, color, color)
        axes.annotate(
            f"{100 * after['accuracy']:.1f}", xy=(at, 100 * after["accuracy"]), xytext=(7, 0), va="center",
            textcoords="offset points", color=color, fontsize=10, fontweight="bold",
        )  # fmt: skip
    axes.set_xlim(-0.5, len(stages) - 0.5 + 0.15)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0, bottom), min(100, top) if top < 100 else 102)
    names = [name if len(name) <= 12 else f"{name[:11]}…" for name in stages]
    axes.set_xticks(range(len(stages)), names, rotation=20 if len(stages) > 1 and max(map(len, names)) > 10 else 0)


def _point(axes: Axes, at: float, row: Mapping[str, Any], color: str, face: str) -> None:
    value, low, high = (100 * row.get(name, row["accuracy"]) for name in ACCURACY)
    axes.errorbar(
        at, value, yerr=[[max(0.0, value - low)], [max(0.0, high - value)]], color=color, elinewidth=1.2, capsize=2.5,
        marker="o", markersize=6, markerfacecolor=face, markeredgecolor=color, zorder=3, clip_on=False,
    )  # fmt: skip
