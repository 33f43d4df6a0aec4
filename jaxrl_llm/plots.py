"""The plots of a report: drawn from the rows of metrics.jsonl, without a display.  Colours are Okabe and Ito's.

A curve is a pair of arrays, steps and values; values that are not finite are left out of it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

Curve = tuple[np.ndarray, np.ndarray]  # steps, values: float64 of one length
Curves = Mapping[str, Mapping[str, Curve]]  # split -> metric -> curve

TRAIN = "#0072B2"
EVALS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE = "#333333", "#D9D9D9"
DOMAIN_METRICS = {"bits_per_byte": "bits per byte", "perplexity": "perplexity", "loss": "loss (nats per token)"}


def draw(curves: Curves, directory: Path) -> dict[str, str]:
    """Write what can be drawn as PNG files into the directory; returns file name -> caption, in reading order."""
    train = curves.get("train", {})
    evals = {split: metrics for split, metrics in curves.items() if split != "train"}
    figures: dict[str, tuple[str, Figure | None]] = {
        "loss.png": ("Loss", _loss(train, evals)),
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


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian running mean, `width` points of standard deviation; near the ends over what there is."""
    reach = int(3 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total, weight = (np.convolve(x, kernel)[reach:-reach] for x in (values, np.ones_like(values)))
    return total / weight


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved as little as needed for labels to lie at least `gap` apart, in the same order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for _ in range(100):
        for low, high in zip(order, order[1:], strict=False):
            overlap = gap - (placed[high] - placed[low])
            if overlap > 1e-9 * gap:
                placed[low] -= overlap / 2
                placed[high] += overlap / 2
    return placed


def _loss(train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    steps, values = train.get("loss", (np.empty(0), np.empty(0)))
    marked = {split: metrics["loss"] for split, metrics in evals.items() if "loss" in metrics}
    if not len(steps) and not marked:
        return None
    figure, axes = _axes("Loss", "nats per token")
    labels = []
    if len(steps):
        smoothed = smooth(values, max(1.0, len(values) / 60)) if len(values) >= 30 else values
        axes.plot(steps, values, color=TRAIN, alpha=0.25 if smoothed is not values else 0, linewidth=0.8)
        _line(axes, (steps, smoothed), TRAIN, marked=len(values) < 30)
        labels.append(("training", steps[-1], smoothed[-1], TRAIN))
    for (split, curve), color in zip(marked.items(), _colors(len(marked)), strict=True):
        _line(axes, curve, color, marked=True)
        labels.append((split, curve[0][-1], curve[1][-1], color))
    _cut_the_fall(axes, [(steps, values), *marked.values()])
    _label(axes, labels)
    return figure


def _domains(evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Old and new domains side by side; the dashed line is where a domain stood before training."""
    metric = next((m for m in DOMAIN_METRICS if evals and all(m in metrics for metrics in evals.values())), None)
    if metric is None or len(evals) < 2:
        return None
    figure, axes = _axes("Evaluation by domain", DOMAIN_METRICS[metric])
    labels = []
    for (split, metrics), color in zip(evals.items(), _colors(len(evals)), strict=True):
        steps, values = metrics[metric]
        if steps[0] == 0:
            axes.axhline(values[0], color=color, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6)
        _line(axes, (steps, values), color, marked=True)
        labels.append((split, steps[-1], values[-1], color))
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
    _line(axes, (steps, values), TRAIN, marked=len(values) < 30)
    axes.set_ylim(0, 1.15 * values.max())
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def _axes(title: str, unit: str | None, *, small: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 2.9) if small else (8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=11 if small else 13)
    if unit:
        axes.set_title(unit, loc="right", color=INK, fontsize=9)
    axes.set_xlabel("step", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if small else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    return figure, axes


def _line(axes: Axes, curve: Curve, color: str, *, marked: bool = False) -> None:
    marks = {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.8} if marked else {}
    axes.plot(*curve, color=color, linewidth=1.8, solid_capstyle="round", **marks)


def _colors(n: int) -> list[str]:
    return [EVALS[i % len(EVALS)] for i in range(n)]


def _cut_the_fall(axes: Axes, curves: list[Curve]) -> None:
    """The first steps of a training from scratch fall from ln V: the axis ends above the loss at 3 % of the run.

    What lies higher is still drawn towards the axis' end; a curve that starts low, as in continual pretraining, is whole.
    """
    last = max(steps[-1] for steps, _ in curves if len(steps))
    late = np.concatenate([values[steps >= 0.03 * last] for steps, values in curves])
    everything = np.concatenate([values for _, values in curves])
    low, high = late.min(), late.max()
    if everything.max() > high + 0.5 * (high - low) and high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.1 * (high - low))


def _label(axes: Axes, labels: list[tuple[str, float, float, str]]) -> None:
    """Each line's name and last value at its right end, in its colour, instead of a legend."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    places = spread([y for _, _, y, _ in labels], 0.055 * (top - bottom))
    for (name, _, y, color), place in zip(labels, places, strict=True):
        axes.annotate(
            f"{name}  {y:.3f}",
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
