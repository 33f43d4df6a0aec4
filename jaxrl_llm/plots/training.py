"""The plots that every stage has: loss, accuracy, rewards, evaluation by domain, learning rate, throughput."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FuncFormatter

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
)

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


def loss(train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]], unit: str) -> Figure | None:
    """Of the training and of each held-out set."""
    curves = _of("loss", train, evals)
    if not curves:
        return None
    figure, axes = one_panel("Loss", unit)
    labels = [draw_smoothed(axes, *curve) for curve in curves]
    _cut_the_fall(axes, [curve for _, curve, _ in curves])
    label_ends(axes, labels)
    return figure


def accuracy(train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Of held-out sets with the 95 % interval, where it is known; the line is what guessing gives."""
    curves = _of("accuracy", train, evals)
    if not curves:
        return None
    figure, axes = one_panel(
        "Accuracy", "%; bands are 95 % intervals" if any("accuracy_low" in e for e in evals.values()) else "%"
    )
    axes.axhline(50, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    labels = []
    for name, (steps, values), color in curves:
        labels.append(draw_smoothed(axes, name, (steps, 100 * values), color))
        low, high = (evals.get(name, {}).get(f"accuracy_{end}") for end in ("low", "high"))
        if low and high:
            axes.fill_between(steps, 100 * low[1], 100 * high[1], color=color, alpha=0.12, linewidth=0)
    label_ends(axes, labels, decimals=1)
    return figure


def rewards(sets: Curves) -> Figure | None:
    """A panel for training and for each held-out set, on one scale."""
    shown = {split: metrics for split, metrics in sets.items() if not REWARDS.keys().isdisjoint(metrics)}
    if not shown:
        return None
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(shown)), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    panels = figure.subplots(len(shown), 1, sharey=True, squeeze=False)[:, 0]
    labels = []
    for axes, (split, metrics) in zip(panels, shown.items(), strict=True):
        dress_curves(axes, "Scores" if "score_mean" in metrics else "Rewards", split)
        axes.axhline(0, color=INK, linewidth=0.8)
        known = {name: look for name, look in REWARDS.items() if name in metrics}
        labels.append([draw_smoothed(axes, name, metrics[metric], color) for metric, (name, color) in known.items()])
    for axes, ends in zip(panels, labels, strict=True):  # when all lines have widened the scale
        label_ends(axes, ends)
    return figure


def domains(evals: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Old and new domains side by side; the dashed line is where a domain stood before training."""
    metric = next((m for m in DOMAIN_METRICS if evals and all(m in metrics for metrics in evals.values())), None)
    if metric is None or len(evals) < 2:
        return None
    figure, axes = one_panel("Evaluation by domain", DOMAIN_METRICS[metric])
    labels = []
    for (split, metrics), color in zip(evals.items(), cycle(EVALS), strict=False):
        steps, values = metrics[metric]
        if steps[0] == 0:
            axes.axhline(values[0], color=color, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6)
        draw_line(axes, (steps, values), color)
        labels.append((split, values[-1], color))
    label_ends(axes, labels)
    return figure


def learning_rate(train: Mapping[str, Curve]) -> Figure | None:
    """As it was scheduled."""
    if "lr" not in train:
        return None
    figure, axes = one_panel("Learning rate", None, small=True)
    draw_line(axes, train["lr"], TRAIN)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _scientific(y)))
    return figure


def throughput(train: Mapping[str, Curve]) -> Figure | None:
    """Tokens a second."""
    if "tokens_per_s" not in train:
        return None
    figure, axes = one_panel("Throughput", "tokens/s", small=True)
    steps, values = train["tokens_per_s"]
    draw_line(axes, (steps, values), TRAIN)
    axes.set_ylim(0, 1.15 * values.max())
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def _of(
    metric: str, train: Mapping[str, Curve], evals: Mapping[str, Mapping[str, Curve]]
) -> list[tuple[str, Curve, str]]:
    """Name, curve and colour: of the training, then of each held-out set."""
    found = [("training", train[metric], TRAIN)] if metric in train else []
    marked = {split: metrics[metric] for split, metrics in evals.items() if metric in metrics}
    return found + [(split, curve, color) for (split, curve), color in zip(marked.items(), cycle(EVALS), strict=False)]


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


def _scientific(y: float) -> str:
    """`0`, `2.1e-3`."""
    if y == 0:
        return "0"
    mantissa, exponent = f"{y:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
