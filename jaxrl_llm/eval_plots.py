"""The plots of an evaluation: bars by subset or domain, curves over samples, and whether probabilities hold.

Colours are Okabe and Ito's, as in `plots`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxrl_llm.plots import EVALS, INK, TRAIN, dress
from jaxrl_llm.plots.look import label_ends
from jaxrl_llm.types import Json

SECTION_COLORS = (TRAIN, *EVALS)
LONGEST = 28  # characters of a run's name


def draw(figures: Json, directory: Path) -> dict[str, str]:
    """Write the PNG files of a suite's figures into the directory, if there are any; returns file name -> caption."""
    drawn = of_suite(figures)
    for name, (_, figure) in drawn.items():
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / name, dpi=160)
    return {name: caption for name, (caption, _) in drawn.items()}


def of_suite(figures: Json) -> dict[str, tuple[str, Figure]]:
    """File name -> caption and plot."""
    if figures["suite"] == "rewardbench":
        return {"accuracy.png": ("Accuracy by subset", subset_bars(figures))}
    if figures["suite"] == "perplexity":
        return {"domains.png": ("Bits per byte by domain", domain_bars(figures["domains"]))}
    if figures["suite"] == "best-of-n":
        return best_of_n(figures)
    if figures["samples"] is None:
        return {}
    curves = sample_curves(figures["samples"], figures["greedy"]["accuracy"])
    return {"samples.png": ("Problems solved with k samples", curves)}


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


def sample_curves(samples: Json, greedy: float | None) -> Figure:
    """pass@k, maj@k and best of k over the number of samples, doubling; the line is the accuracy of greedy answers."""
    figure, axes = _panel("Problems solved with k samples", "%; bands are 95 % intervals")
    axes.grid(axis="x", visible=False)
    labels: list[tuple[str, float, str]] = []
    if greedy is not None:
        axes.axhline(100 * greedy, color=INK, linewidth=1, linestyle=(0, (4, 4)))
        labels.append(("greedy", 100 * greedy, INK))
    curves = (("pass@k", "pass", "rate"), ("maj@k", "majority", "rate"), ("best of k", "best_of", "accuracy"))
    for (name, key, value), color in zip(curves, SECTION_COLORS, strict=False):
        if key in samples:
            ks, found = list(samples[key]), list(samples[key].values())
            rates = [100 * each[value] for each in found]
            _banded(axes, ks, rates, [[100 * end for end in each["interval"]] for each in found], color)
            labels.append((name, rates[-1], color))
    _doubling(axes, list(samples["pass"]), "k")
    label_ends(axes, labels, decimals=1)
    return figure


def best_of_n(figures: Json) -> dict[str, tuple[str, Figure]]:
    """Reward against KL, wins against n, and accuracy against n, where that is known."""
    best_of, runs = figures["best_of"], figures["runs"]
    drawn = {
        "reward_kl.png": ("Reward against KL", reward_against_kl(best_of, runs)),
        "wins.png": ("Wins of the best of n", win_curves(best_of)),
    }
    if figures["task"] is not None:
        drawn["accuracy.png"] = ("Accuracy of the best of n", accuracy_curve(best_of, runs))
    return drawn


def reward_against_kl(best_of: Json, runs: Json) -> Figure:
    """The best of n as a curve over the bound on its KL, n above; other policies as points, with 95 % intervals."""
    figure, axes = _panel("Reward against KL", "with 95 % intervals", pad=26)
    bounds, rewards = ([each[name] for each in best_of.values()] for name in ("kl_bound", "reward"))
    _banded(axes, bounds, rewards, [each["reward_interval"] for each in best_of.values()], TRAIN)
    labels = [("best of n", rewards[-1], TRAIN)]
    for (name, run), (color, marker) in zip(runs.items(), _looks(), strict=False):
        x, y = ([[abs(end - run[of]) for end in run[f"{of}_interval"]]] for of in ("kl", "reward"))
        axes.errorbar(
            run["kl"], run["reward"], np.transpose(y), np.transpose(x), color=color, elinewidth=1,
            marker=marker, markersize=7, markeredgecolor="white", zorder=3,
        )  # fmt: skip
        labels.append((_short(name), run["reward"], color))
    axes.set_xlabel("KL to the base, nats an answer; of the best of n its bound", color=INK)
    left, right = axes.get_xlim()
    shown: list[tuple[float, str]] = []
    for n, bound in reversed([*zip(best_of, bounds, strict=True)]):
        if not shown or shown[-1][0] - bound > (0.01 + 0.02 * len(shown[-1][1])) * (right - left):
            shown.append((bound, f"{n}"))
    above = axes.secondary_xaxis("top")
    above.set_xticks([at for at, _ in shown], [n for _, n in shown])
    above.spines["top"].set_visible(False)
    above.tick_params(length=0, labelcolor=TRAIN, labelsize=9, pad=1)
    axes.annotate(
        "n", xy=(left, 1), xycoords=("data", "axes fraction"), xytext=(-9, 3), textcoords="offset points", color=TRAIN,
        fontsize=9, ha="right",
    )  # fmt: skip
    label_ends(axes, labels, decimals=2)
    return figure


def win_curves(best_of: Json) -> Figure:
    """How often the best of n is better than another sample, by each that says so; the line is what is possible."""
    figure, axes = _panel("Wins of the best of n", "over one more sample, %; bands are 95 % intervals")
    axes.grid(axis="x", visible=False)
    ns, bounds = [*map(int, best_of)], [100 * each["win_bound"] for each in best_of.values()]
    axes.plot(ns, bounds, color=INK, linewidth=1, linestyle=(0, (4, 4)))
    labels = [("n/(n + 1)", bounds[-1], INK)]
    said = {"reward": "by the reward", "judge": "by the judge", "grade": "by the grade"}
    for name, color in zip(next(iter(best_of.values()))["wins"], SECTION_COLORS, strict=False):
        found = [each["wins"][name] for each in best_of.values()]
        rates = [100 * each["rate"] for each in found]
        _banded(axes, ns, rates, [[100 * end for end in each["interval"]] for each in found], color)
        labels.append((said[name], rates[-1], color))
    _doubling(axes, ns, "n")
    label_ends(axes, labels, decimals=1)
    return figure


def accuracy_curve(best_of: Json, runs: Json) -> Figure:
    """How often the best of n is right; the lines are other policies."""
    figure, axes = _panel("Accuracy", "of the best of n, %, with 95 % intervals")
    axes.grid(axis="x", visible=False)
    ns, rates = [*map(int, best_of)], [100 * each["accuracy"] for each in best_of.values()]
    _banded(axes, ns, rates, [[100 * end for end in each["interval"]] for each in best_of.values()], TRAIN)
    labels = [("best of n", rates[-1], TRAIN)]
    for (name, run), (color, _) in zip(runs.items(), _looks(), strict=False):
        axes.axhline(100 * run["accuracy"], color=color, linewidth=1.2, linestyle=(0, (4, 4)))
        labels.append((_short(name), 100 * run["accuracy"], color))
    _doubling(axes, ns, "n")
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


def _panel(title: str, unit: str, pad: float | None = None) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    dress(axes, title, unit, pad=pad)
    return figure, axes


def _banded(axes: Axes, x: Sequence[float], y: Sequence[float], ends: Sequence[Sequence[float]], color: str) -> None:
    """A curve with the intervals of its points."""
    low, high = zip(*ends, strict=True)
    axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(x, y, color=color, linewidth=1.8, marker="o", markersize=4.5, markeredgecolor="white")


def _doubling(axes: Axes, ks: Sequence[int], name: str) -> None:
    """Numbers of samples below a plot."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [f"{k:,}" for k in ks])
    axes.minorticks_off()
    axes.set_xlim(ks[0] * 0.95, ks[-1] * 1.05)
    axes.set_xlabel(name, color=INK)


def _looks() -> Iterator[tuple[str, str]]:
    """Colours and markers of other policies; no two alike for a long while."""
    return zip(itertools.cycle(EVALS), itertools.cycle("sD^vP"))


def _short(name: str) -> str:
    """A run's name, its end where it is too long to stand beside a plot."""
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]


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
