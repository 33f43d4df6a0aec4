"""The plots of an evaluation: bars by subset or domain, curves over samples, and whether probabilities hold.

Colours are Okabe and Ito's, as in `plots`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxrl_llm.plots import EVALS, INK, TRAIN, dress
from jaxrl_llm.plots.look import label_ends
from jaxrl_llm.types import Json

SECTION_COLORS = (TRAIN, *EVALS)


def draw(figures: Json, directory: Path) -> dict[str, str]:
    """Write the PNG file of a suite's figures into the directory, if there is one; returns file name -> caption."""
    if figures["suite"] == "rewardbench":
        name, caption, figure = "accuracy.png", "Accuracy by subset", subset_bars(figures)
    elif figures["suite"] == "task":
        if figures["samples"] is None:
            return {}
        name, caption = "samples.png", "Problems solved with k samples"
        figure = sample_curves(figures["samples"], figures["greedy"]["accuracy"])
    else:
        name, caption, figure = "domains.png", "Bits per byte by domain", domain_bars(figures["domains"])
    directory.mkdir(parents=True, exist_ok=True)
    figure.savefig(directory / name, dpi=160)
    return {name: caption}


def subset_bars(figures: Json) -> Figure:
    """A bar for each subset in the colour of its section, with its 95 % interval; the line is what guessing gives."""
    subsets, sections = figures["subsets"], figures["sections"]
    colors = dict(zip(sections, SECTION_COLORS, strict=False))
    n_bars = len(subsets) + len(sections.keys() - subsets.keys())
    figure, axes = _axes("Accuracy by subset", "%, with 95 % intervals", n_bars)
    y, ticks = 0.0, []
    for section, found in sections.items():
        if section not in subsets:  # in version 2 a section is a subset
            title = f"{section}  {100 * found['accuracy']:.1f}"
            axes.text(0, y, title, color=colors[section], fontsize=10, fontweight="bold", va="center")
            y += 1
        for name, each in subsets.items():
            if each["section"] == section:
                _bar(axes, y, each["accuracy"], colors[section], each["interval"])
                ticks.append((y, name))
                y += 1
    guess = 50 if figures["version"] == 1 else 25
    axes.axvline(guess, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    axes.annotate(
        "guessing", xy=(guess, 1), xycoords=axes.get_xaxis_transform(), xytext=(0, 3), textcoords="offset points",
        ha="center", fontsize=8, color=INK,
    )  # fmt: skip
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 25))
    _name_bars(axes, ticks, y)
    return figure


def domain_bars(domains: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar of bits per byte for each domain, the least at the top, with its perplexity."""
    figure, axes = _axes("Evaluation by domain", "bits per byte; perplexity in brackets", len(domains))
    ordered = sorted(domains.items(), key=lambda item: item[1]["bits_per_byte"])
    widest = ordered[-1][1]["bits_per_byte"]
    for y, (_, found) in enumerate(ordered):
        axes.barh(y, found["bits_per_byte"], height=0.7, color=TRAIN)
        label = f"{found['bits_per_byte']:.3f}  ({found['perplexity']:.4g})"
        axes.text(found["bits_per_byte"] + 0.01 * widest, y, label, fontsize=9, color=INK, va="center")
    axes.set_xlim(0, 1.2 * widest)
    _name_bars(axes, [(y, name) for y, (name, _) in enumerate(ordered)], len(ordered))
    return figure


def sample_curves(samples: Json, greedy: float) -> Figure:
    """pass@k, maj@k and best of k over the number of samples, doubling; the line is the accuracy of greedy answers."""
    figure = Figure(figsize=(8, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    dress(axes, "Problems solved with k samples", "%; bands are 95 % intervals")
    axes.grid(axis="x", visible=False)
    axes.axhline(100 * greedy, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    labels = [("greedy", 100 * greedy, INK)]
    curves = (("pass@k", "pass", "rate"), ("maj@k", "majority", "rate"), ("best of k", "best_of", "accuracy"))
    for (name, key, value), color in zip(curves, SECTION_COLORS, strict=False):
        if key in samples:
            ks, found = list(samples[key]), list(samples[key].values())
            low, high = ([100 * each["interval"][end] for each in found] for end in (0, 1))
            rates = [100 * each[value] for each in found]
            axes.fill_between(ks, low, high, color=color, alpha=0.12, linewidth=0)
            axes.plot(ks, rates, color=color, linewidth=1.8, marker="o", markersize=4.5, markeredgecolor="white")
            labels.append((name, rates[-1], color))
    ks = list(samples["pass"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [f"{k:,}" for k in ks])
    axes.minorticks_off()
    axes.set_xlim(ks[0] * 0.95, ks[-1] * 1.05)
    axes.set_xlabel("k", color=INK)
    label_ends(axes, labels, decimals=1)
    return figure


def draw_calibration(calibration: Json, path: Path, title: str = "Calibration") -> None:
    """Write what `evals.preference.calibration` returns as a PNG file: observed over predicted accuracy, by bins.

    On the diagonal a probability means what it says; the bars below count the pairs.
    """
    figure = Figure(figsize=(5, 5.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    bins = calibration["bins"]
    above.plot([50, 100], [50, 100], color=INK, linewidth=1, linestyle=(0, (4, 4)))
    x, y = ([100 * each[name] for each in bins] for name in ("predicted", "observed"))
    bounds = [[100 * abs(each["interval"][i] - each["observed"]) for each in bins] for i in (0, 1)]
    above.errorbar(x, y, bounds, color=TRAIN, ecolor=TRAIN, elinewidth=1, marker="o", markersize=5, linewidth=1.8)
    below.bar(
        [100 * each["low"] for each in bins],
        [each["pairs"] for each in bins],
        [0.94 * 100 * (each["high"] - each["low"]) for each in bins],
        align="edge",
        color=TRAIN,
        alpha=0.5,
    )
    dress(above, title, f"expected error {100 * calibration['error']:.1f} %")
    dress(below, "", "")
    above.set_ylabel("pairs that were right, %", color=INK, fontsize=9)
    below.set_ylabel("pairs", color=INK, fontsize=9)
    below.set_xlabel("probability that the model gave, %", color=INK, fontsize=9)
    above.set_xlim(49, 101)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _axes(title: str, unit: str, n_bars: int) -> tuple[Figure, Axes]:
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(8, 1.3 + 0.27 * n_bars), layout=layout)
    axes = figure.add_subplot()
    dress(axes, title, unit, pad=18)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _bar(axes: Axes, y: float, accuracy: float, color: str, interval: tuple[float, float]) -> None:
    low, high = (100 * bound for bound in interval)
    axes.barh(y, 100 * accuracy, height=0.7, color=color, alpha=0.85)
    axes.plot([low, high], [y, y], color=INK, linewidth=1, solid_capstyle="butt")
    axes.annotate(
        f"{100 * accuracy:.1f}", xy=(max(high, 100 * accuracy), y), xytext=(4, 0), textcoords="offset points",
        fontsize=9, color=INK, va="center",
    )  # fmt: skip


def _name_bars(axes: Axes, ticks: Any, n: float) -> None:
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(n - 0.4, -0.6)
