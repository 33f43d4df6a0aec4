"""The look of all plots, and how curves are drawn.  Colours are Okabe and Ito's.

A curve is a pair of arrays, steps and values; values that are not finite are left out of it.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

Curve = tuple[np.ndarray, np.ndarray]  # steps, values: float64 of one length
Curves = Mapping[str, Mapping[str, Curve]]  # split -> metric -> curve

TRAIN = "#0072B2"
EVALS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE = "#333333", "#D9D9D9"
FEW = 40  # points: so many are drawn one by one, as an evaluation's mostly are; more are a line


def one_panel(title: str, unit: str | None, *, small: bool = False) -> tuple[Figure, Axes]:
    """A figure of one curve plot."""
    figure = Figure(figsize=(4.4, 2.9) if small else (8, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    dress_curves(axes, title, unit, small=small)
    return figure, axes


def dress_curves(axes: Axes, title: str, unit: str | None, *, small: bool = False) -> None:
    """Axes of something over the steps."""
    dress(axes, title, unit, size=11 if small else 13)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("step", color=INK)
    axes.set_xlim(0, 1)  # `draw_line` widens it
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


def draw_smoothed(axes: Axes, name: str, curve: Curve, color: str) -> tuple[str, float, str]:
    """Draw a curve, of many points their running mean with the points behind it; returns its label."""
    line = curve if len(curve[0]) <= FEW else smooth(curve)
    if line is not curve:
        axes.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
    draw_line(axes, line, color)
    return name, line[1][-1], color


def draw_line(axes: Axes, curve: Curve, color: str) -> None:
    """Draw a curve, its points marked where they are few."""
    marks: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.8}
    marks["marker"] = "o" if len(curve[0]) <= FEW else None
    axes.plot(*curve, color=color, linewidth=1.8, solid_capstyle="round", **marks)
    right = max(axes.get_xlim()[1], 1.015 * curve[0][-1])
    axes.set_xlim(-0.015 * right, right)


def label_ends(axes: Axes, labels: list[tuple[str, float, str]], decimals: int = 3, size: int = 10) -> None:
    """Each line's name and last value at its right end, in its colour, instead of a legend."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    inches = axes.figure.bbox.height / axes.figure.dpi * _share_of_height(axes)
    places = spread([y for _, y, _ in labels], 0.026 * size / inches * (top - bottom))
    for (name, y, color), place in zip(labels, places, strict=True):
        axes.annotate(
            f"{name}  {y:.{decimals}f}".strip().replace("-", "−"),
            xy=(1, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            color=color,
            fontsize=size,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _share_of_height(axes: Axes) -> float:
    """Of its figure, where panels stand above each other."""
    place = axes.get_subplotspec()
    assert place is not None, "panels are made by grids"
    heights = np.asarray(place.get_gridspec().get_height_ratios(), np.float64)
    return float(heights[list(place.rowspan)].sum() / heights.sum())


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
