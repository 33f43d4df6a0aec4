"""The plots of reinforcement learning: what is gained, what it costs, and whether the rollouts are healthy."""

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from jaxrl_llm.plots.look import (
    EVALS,
    INK,
    TRAIN,
    Curve,
    Curves,
    draw_line,
    draw_smoothed,
    dress_curves,
    label_ends,
    one_panel,
    smooth,
)

DASHED = (0, (4, 4))
SMALL = 9  # points, of labels in small panels
HEALTH = {  # metric -> title, unit, factor, decimal places; the first six that there are
    "entropy": ("Entropy", "nats a token", 1, 3),
    "clip_fraction": ("Clipped", "% of the tokens", 100, 1),
    "approx_kl_k3": ("KL from the policy that wrote", "nats", 1, 4),
    "explained_variance": ("Critic", "explained variance", 1, 2),
    "length": ("Length", "tokens an answer", 1, 1),
    "ended": ("Ended by themselves", "% of the answers", 100, 1),
    "equal_groups": ("Groups of one reward", "% of the prompts", 100, 1),
    "score_std": ("Spread of rewards", "standard deviation", 1, 3),
}


def course(train: Mapping[str, Curve], tasks: Curves, learnt: Mapping[str, Any]) -> Figure | None:
    """Reward, KL to the reference and accuracy on held-out problems, side by side: those that there are."""
    panels: list[Callable[[Figure, GridSpec, int], None]] = []
    if learnt["reward"] in train:
        panels.append(lambda figure, grid, column: _reward(figure.add_subplot(grid[:, column]), train, learnt))
    if "kl" in train:
        panels.append(lambda figure, grid, column: _kl(figure, grid, column, train, learnt["kl_target"]))
    if tasks:
        panels.append(lambda figure, grid, column: _accuracy(figure.add_subplot(grid[:, column]), tasks))
    if not panels:
        return None
    figure = _figure(4.1 * len(panels), 3.8)
    grid = figure.add_gridspec(2, len(panels), height_ratios=(3, 1))
    for column, panel in enumerate(panels):
        panel(figure, grid, column)
    return figure


def accuracy_alone(tasks: Curves) -> Figure | None:
    """Accuracy on held-out problems, of stages that do not learn from rollouts."""
    if not tasks:
        return None
    figure, axes = one_panel("", None)
    _accuracy(axes, tasks, small=False)
    return figure


def health(train: Mapping[str, Curve]) -> Figure | None:
    """Small panels of what goes wrong first."""
    shown = [metric for metric in HEALTH if metric in train][:6]
    if not shown:
        return None
    columns = 3 if len(shown) > 4 else 2
    rows = -(-len(shown) // columns)
    figure = _figure(4.1 * columns, 0.3 + 2.5 * rows)
    grid = figure.add_gridspec(rows, columns)
    for number, metric in enumerate(shown):
        title, unit, factor, places = HEALTH[metric]
        steps, values = train[metric]
        axes = figure.add_subplot(grid[divmod(number, columns)])
        dress_curves(axes, title, unit, small=True)
        if number < len(shown) - columns:
            axes.set_xlabel("")
        ends = [draw_smoothed(axes, "", (steps, factor * values), TRAIN)]
        _room(axes, 10 ** (1 - places))
        label_ends(axes, ends, decimals=places, size=SMALL)
    return figure


def _reward(axes: Axes, train: Mapping[str, Curve], learnt: Mapping[str, Any]) -> None:
    """The reward, with its parts as they are weighed where there are several, else with its standard deviation."""
    weights = {name: weight for name, weight in learnt["weights"].items() if f"reward/{name}" in train}
    parts = weights if len(weights) > 1 else {}
    steps, mean = train[learnt["reward"]]
    around = _deviation(train, mean) if learnt["reward"] == "score" and not parts else None
    unit = "mean of the answers" if learnt["reward"] == "score" else "before normalisation"
    _dress(axes, "Reward", unit + "; parts as weighed" * bool(parts) + " ± standard deviation" * (around is not None))
    ends = []
    for (name, weight), color in zip(parts.items(), cycle(EVALS), strict=False):
        at, values = train[f"reward/{name}"]
        ends.append(draw_smoothed(axes, name, (at, weight * values), color))
    ends.append(draw_smoothed(axes, "reward" if parts else "", (steps, mean), TRAIN))
    if around is not None:
        (at, middle), (_, around) = smooth((steps, mean)), smooth((steps, around))
        axes.fill_between(at, middle - around, middle + around, color=TRAIN, alpha=0.12, linewidth=0)
    label_ends(axes, ends, size=SMALL)


def _deviation(train: Mapping[str, Curve], mean: np.ndarray) -> np.ndarray | None:
    """Of the rewards at each step; None where they are 0 or 1, for then it follows from their mean."""
    _, std = train.get("score_std", (None, np.zeros(0)))
    if len(std) != len(mean) or np.allclose(std**2, mean * (1 - mean), atol=1e-3):
        return None
    return std


def _kl(figure: Figure, grid: GridSpec, column: int, train: Mapping[str, Curve], target: float | None) -> None:
    """Both estimates and the target; the coefficient below them where it moves, else beside the title."""
    steps, coefficient = train.get("kl_coef", (np.zeros(0), np.zeros(0)))
    moves = len(steps) > 0 and np.ptp(coefficient) > 0
    axes = figure.add_subplot(grid[0, column] if moves else grid[:, column])
    fixed = f"; β = {coefficient[-1]:g}" if len(steps) and not moves else ""
    _dress(axes, "KL to the reference", f"nats an answer{fixed}")
    ends = [draw_smoothed(axes, "k3", train["kl_k3"], EVALS[3])] if "kl_k3" in train else []
    ends.append(draw_smoothed(axes, "k1", train["kl"], TRAIN))
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1, linestyle=DASHED)
        axes.annotate(
            f"target {target:g}", xy=(0, target), xycoords=axes.get_yaxis_transform(), xytext=(2, 3),
            textcoords="offset points", fontsize=8, color=INK,
        )  # fmt: skip
    label_ends(axes, ends, decimals=2, size=SMALL)
    if moves:
        below = figure.add_subplot(grid[1, column], sharex=axes)
        dress_curves(below, "", None, small=True)
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
        draw_line(below, (steps, coefficient), EVALS[1])  # as it was: there is no noise in it
        below.yaxis.set_major_locator(MaxNLocator(nbins=2))
        label_ends(below, [("β", coefficient[-1], EVALS[1])], size=SMALL)


def _accuracy(axes: Axes, tasks: Curves, small: bool = True) -> None:
    """Of each task with its 95 % interval; the dashed line is where it stood before training."""
    names = list(tasks)
    unit = f"%, {names[0]}; the band is the 95 % interval" if len(names) == 1 else "%; the bands are 95 % intervals"
    _dress(axes, "Held-out accuracy", unit, small=small)
    ends = []
    for (name, metrics), color in zip(tasks.items(), cycle(EVALS), strict=False):
        steps, values = metrics["accuracy"]
        if steps[0] == 0 and len(steps) > 1:
            axes.axhline(100 * values[0], color=color, linewidth=1, linestyle=DASHED, alpha=0.6)
        low, high = (metrics.get(f"accuracy_{end}") for end in ("low", "high"))
        if low and high:
            axes.fill_between(steps, 100 * low[1], 100 * high[1], color=color, alpha=0.15, linewidth=0)
        draw_line(axes, (steps, 100 * values), color)
        ends.append((name if len(names) > 1 else "", 100 * values[-1], color))
    label_ends(axes, ends, decimals=1, size=SMALL if small else 10)


def _dress(axes: Axes, title: str, unit: str, small: bool = True) -> None:
    """As `dress_curves`, with the unit below the title: beside it there is no room."""
    dress_curves(axes, "", None, small=small)
    axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=12 if small else 13, pad=20)
    axes.annotate(
        unit, xy=(0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", fontsize=9, color=INK
    )


def _room(axes: Axes, least: float) -> None:
    """An axis no shorter than this, else a curve that does not move shows rounding errors."""
    bottom, top = axes.get_ylim()
    more = max(0.0, least - (top - bottom)) / 2
    axes.set_ylim(bottom - more, top + more)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
