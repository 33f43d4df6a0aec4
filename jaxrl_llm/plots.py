"""The plots of a report: drawn from the rows of metrics.jsonl, without a display.  Colours are Okabe and Ito's.

A curve is a pair of arrays, steps and values; values that are not finite are left out of it.
"""

from collections.abc import Mapping
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

Curve = tuple[np.ndarray, np.ndarray]  # steps, values: float64 of one length
Curves = Mapping[str, Mapping[str, Curve]]  # split -> metric -> curve

TRAIN = "#0072B2"
EVALS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE = "#333333", "#D9D9D9"
FEW = 40  # points: so many are drawn one by one, as an evaluation's mostly are; more are a line
DOMAIN_METRICS = {"bits_per_byte": "bits per byte", "perplexity": "perplexity"}
# What is said of better and worse answers, or of wanted and unwanted ones: metric -> name and colour.
REWARDS = {
    "rewards/chosen": ("chosen", "#009E73"),
    "rewards/rejected": ("rejected", "#D55E00"),
    "score_wanted": ("wanted", "#009E73"),
    "score_unwanted": ("unwanted", "#D55E00"),
    "score_mean": ("mean score", "#E69F00"),
    "margin": ("margin", TRAIN),
}


def draw(curves: Curves, directory: Path, loss_unit: str) -> dict[str, str]:
    """Write what can be drawn as PNG files into the directory; returns file name -> caption, in reading order.

    `curves` have an algorithm's accuracy and margin by these names; `loss_unit` is what the loss is a mean over.
    """
    train = curves.get("train", {})
    evals = {split: metrics for split, metrics in curves.items() if split != "train"}
    figures: dict[str, tuple[str, Figure | None]] = {
        "loss.png": ("Loss", _loss(train, evals, loss_unit)),
        "accuracy.png": ("Accuracy", _accuracy(train, evals)),
        "rewards.png": ("Rewards of better and worse answers", _rewards({"training": train, **evals})),
        "domains.png": ("Evaluation by domain", _domains(evals)),
        "learning_rate.png": ("Learning rate", _learning_rate(train)),
        "throughput.png": ("Throughput", _throughput(train)),
    }
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, (caption, figure) in figures.items():
        if figure is not None:
            figure.savefig(directory / name, dpi=160)
            drawn[name] = caption
    return drawn


def smooth(curve: Curve) -> Curve:
    """Gaussian running mean at up to 400 points; narrow where the curve begins, not to blur its fall."""
    steps, values = curve
    centres = np.unique(np.linspace(0, len(values) - 1, min(len(values), 400)).round().astype(int))
    means = []
    for centre in centres:
        width = min(0.5 + 0.1 * centre, len(values) / 40)
        first = max(0, centre - int(3 * width))
        window = values[first : centre + int(3 * width) + 1]
        weights = np.exp(-0.5 * ((np.arange(first, first + len(window)) - centre) / width) ** 2)
        means.append(weights @ window / weights.sum())
    return steps[centres], np.asarray(means)


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved as little as needed for labels to lie at least `gap` apart, in the same order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for _ in range(100):
        for low, high in pairwise(order):
            overlap = gap - (placed[high] - placed[low])
            if overlap > 1e-9 * gap:
                placed[low] -= overlap / 2
                placed[high] += overlap / 2
    return placed


def _loss(train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]], unit: str) -> Figure | None:
    curves = _of("loss", train, evals)
    if not curves:
        return None
    figure, axes = _axes("Loss", unit)
    labels = [_smoothed(axes, *curve) for curve in curves]
    _cut_the_fall(axes, [curve for _, curve, _ in curves])
    _label(axes, labels)
    return figure


def _accuracy(train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Of held-out sets with the 95 % interval, where it is known; the line is what guessing gives."""
    curves = _of("accuracy", train, evals)
    if not curves:
        return None
    figure, axes = _axes(
        "Accuracy", "%; bands are 95 % intervals" if any("accuracy_low" in e for e in evals.values()) else "%"
    )
    axes.axhline(50, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    labels = []
    for name, (steps, values), color in curves:
        labels.append(_smoothed(axes, name, (steps, 100 * values), color))
        low, high = (evals.get(name, {}).get(f"accuracy_{end}") for end in ("low", "high"))
        if low and high:
            axes.fill_between(steps, 100 * low[1], 100 * high[1], color=color, alpha=0.12, linewidth=0)
    _label(axes, labels, decimals=1)
    return figure


def _rewards(sets: Curves) -> Figure | None:
    """A panel for training and for each held-out set, on one scale."""
    shown = {split: metrics for split, metrics in sets.items() if not REWARDS.keys().isdisjoint(metrics)}
    if not shown:
        return None
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(shown)), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    panels = figure.subplots(len(shown), 1, sharey=True, squeeze=False)[:, 0]
    labels = []
    for axes, (split, metrics) in zip(panels, shown.items(), strict=True):
        _dress_curves(axes, "Scores" if "score_mean" in metrics else "Rewards", split)
        axes.axhline(0, color=INK, linewidth=0.8)
        known = {name: look for name, look in REWARDS.items() if name in metrics}
        labels.append([_smoothed(axes, name, metrics[metric], color) for metric, (name, color) in known.items()])
    for axes, ends in zip(panels, labels, strict=True):  # when all lines have widened the scale
        _label(axes, ends)
    return figure


def _of(
    metric: str, train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]]
) -> list[tuple[str, Curve, str]]:
    """Name, curve and colour: of the training, then of each held-out set."""
    found = [("training", train[metric], TRAIN)] if metric in train else []
    marked = {split: metrics[metric] for split, metrics in evals.items() if metric in metrics}
    return found + [(split, curve, color) for (split, curve), color in zip(marked.items(), cycle(EVALS), strict=False)]


def _smoothed(axes: Axes, name: str, curve: Curve, color: str) -> tuple[str, float, str]:
    """Draw a curve, of many points their running mean with the points behind it; returns its label."""
    line = curve if len(curve[0]) <= FEW else smooth(curve)
    if line is not curve:
        axes.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
    _line(axes, line, color)
    return name, line[1][-1], color


def _domains(evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Old and new domains side by side; the dashed line is where a domain stood before training."""
    metric = next((m for m in DOMAIN_METRICS if evals and all(m in metrics for metrics in evals.values())), None)
    if metric is None or len(evals) < 2:
        return None
    figure, axes = _axes("Evaluation by domain", DOMAIN_METRICS[metric])
    labels = []
    for (split, metrics), color in zip(evals.items(), cycle(EVALS), strict=False):
        steps, values = metrics[metric]
        if steps[0] == 0:
            axes.axhline(values[0], color=color, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6)
        _line(axes, (steps, values), color)
        labels.append((split, values[-1], color))
    _label(axes, labels)
    return figure


def _learning_rate(train: Mapping[str, Curve]) -> Figure | None:
    if "lr" not in train:
        return None
    figure, axes = _axes("Learning rate", None, small=True)
    _line(axes, train["lr"], TRAIN)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _scientific(y)))
    return figure


def _throughput(train: Mapping[str, Curve]) -> Figure | None:
    if "tokens_per_s" not in train:
        return None
    figure, axes = _axes("Throughput", "tokens/s", small=True)
    steps, values = train["tokens_per_s"]
    _line(axes, (steps, values), TRAIN)
    axes.set_ylim(0, 1.15 * values.max())
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def _axes(title: str, unit: str | None, *, small: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 2.9) if small else (8, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    _dress_curves(axes, title, unit, small=small)
    return figure, axes


def _dress_curves(axes: Axes, title: str, unit: str | None, *, small: bool = False) -> None:
    """Axes of something over the steps."""
    dress(axes, title, unit, size=11 if small else 13)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("step", color=INK)
    axes.set_xlim(0, 1)  # `_line` widens it
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if small else 8, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6 if small else 8, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def dress(axes: Axes, title: str, unit: str | None, *, size: int = 13, pad: float | None = None) -> None:
    """The look of all plots: title at the left, unit at the right, pale lines, no frame."""
    axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=size, pad=pad)
    axes.set_title(unit or "", loc="right", color=INK, fontsize=9, pad=pad)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.grid(color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)


def _line(axes: Axes, curve: Curve, color: str) -> None:
    marks: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.8}
    marks["marker"] = "o" if len(curve[0]) <= FEW else None
    axes.plot(*curve, color=color, linewidth=1.8, solid_capstyle="round", **marks)
    right = max(axes.get_xlim()[1], 1.015 * curve[0][-1])
    axes.set_xlim(-0.015 * right, right)


def _cut_the_fall(axes: Axes, curves: list[Curve]) -> None:
    """A training from scratch falls steeply from ln V: the axis then ends above what comes after 5 % of the run.

    The title says so.  Curves that fit are shown whole, as those of continual pretraining mostly do.
    """
    last = max(steps[-1] for steps, _ in curves)
    late = np.concatenate([values[steps >= 0.05 * last] for steps, values in curves])
    highest = max(values.max() for _, values in curves)
    low, high = late.min(), late.max()
    if highest > high + 0.8 * (high - low) > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        unit = axes.get_title(loc="right")
        axes.set_title(f"{unit}; the start, from {highest:.2f}, is above the axis", loc="right", color=INK, fontsize=9)


def _label(axes: Axes, labels: list[tuple[str, float, str]], decimals: int = 3) -> None:
    """Each line's name and last value at its right end, in its colour, instead of a legend."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    inches = axes.figure.bbox.height / axes.figure.dpi / len(axes.figure.axes)
    places = spread([y for _, y, _ in labels], 0.26 / inches * (top - bottom))
    for (name, y, color), place in zip(labels, places, strict=True):
        axes.annotate(
            f"{name}  {y:.{decimals}f}".replace("-", "−"),
            xy=(1, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            color=color,
            fontsize=10,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _scientific(y: float) -> str:
    """`0`, `2.1e-3`."""
    if y == 0:
        return "0"
    mantissa, exponent = f"{y:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
