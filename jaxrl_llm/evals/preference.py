"""How well scores tell the better answer of a pair: accuracy with its interval, loss, calibration.  NumPy alone.

A pair is right where the better answer's score is the higher one; equal scores count half.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959964  # of a 95 % interval
STEPS = 8  # margins that are told apart as they are; more are put in four groups of like size

Interval = tuple[float, float]


def compare(
    better_P: np.ndarray,
    worse_P: np.ndarray,
    weight_P: np.ndarray | None = None,
    rating_P: np.ndarray | None = None,
    margin_P: np.ndarray | None = None,
    subset_P: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """All that is reported of P scored pairs.

    Args:
        better_P: scores of the better answers.
        worse_P: scores of the worse ones.
        weight_P: 1 / pairs of the prompt; 0 where a place is empty; None: 1 each.
        rating_P: 3 significantly better .. 0 negligibly better; -1 not said.
        margin_P: by how much the better one should lead; 0 or NaN where nothing is said.
        subset_P: a name each, or None.

    Returns:
        `accuracy`; `interval`, the 95 % one of Wilson, by the number of prompts (the sum of the weights), since pairs
        of one ranking are not independent; `loss`, the mean -log σ(better - worse) in nats; `lead`, the mean of
        better - worse; `pairs`; `ties`, pairs of equal scores; and the same for the pairs of each rating, margin and
        subset as `by_rating`, `by_margin`, `by_subset`: name -> figures, empty where nothing is said.
    """
    weight_P = np.ones(len(better_P)) if weight_P is None else np.asarray(weight_P, np.float64)
    lead_P = np.asarray(better_P, np.float64) - np.asarray(worse_P, np.float64)
    groups = {
        "by_rating": {} if rating_P is None else {str(r): rating_P == r for r in np.unique(rating_P) if r >= 0},
        "by_margin": {} if margin_P is None else _by_margin(np.asarray(margin_P, np.float64), weight_P > 0),
        "by_subset": {} if subset_P is None else _by_name(subset_P),
    }
    return _figures(lead_P, weight_P) | {
        name: {key: _figures(lead_P[of], weight_P[of]) for key, of in members.items() if weight_P[of].any()}
        for name, members in groups.items()
    }


def calibration(
    better_P: np.ndarray, worse_P: np.ndarray, weight_P: np.ndarray | None = None, bins: int = 10
) -> dict[str, Any]:
    """Whether a score's probabilities hold: what is said to be right nine times of ten should be so.

    The model says that the answer of the higher score is better with p = σ(|better - worse|), from 0.5 to 1.

    Returns:
        `bins`, those of equal width that hold pairs: {`low`, `high`, `predicted` mean p, `observed` accuracy,
        `interval`, `pairs`}; `error`, the expected calibration error: the mean of |observed - predicted| over pairs.
    """
    weight_P = np.ones(len(better_P)) if weight_P is None else np.asarray(weight_P, np.float64)
    lead_P = np.asarray(better_P, np.float64) - np.asarray(worse_P, np.float64)
    said_P = 1 / (1 + np.exp(-np.abs(lead_P)))
    bin_P = np.minimum((2 * bins * (said_P - 0.5)).astype(int), bins - 1)
    found = []
    for number in range(bins):
        of = (bin_P == number) & (weight_P > 0)
        if of.any():
            figures = _figures(lead_P[of], weight_P[of])
            found.append(
                {
                    "low": 0.5 + number / (2 * bins),
                    "high": 0.5 + (number + 1) / (2 * bins),
                    "predicted": float(np.average(said_P[of], weights=weight_P[of])),
                    "observed": figures["accuracy"],
                    "interval": figures["interval"],
                    "pairs": figures["pairs"],
                    "weight": float(weight_P[of].sum()),
                }
            )
    total = math.fsum(each["weight"] for each in found)
    error = math.fsum(each.pop("weight") * abs(each["observed"] - each["predicted"]) for each in found)
    return {"bins": found, "error": error / total if total else math.nan}


def wilson(rate: float, n: float) -> Interval:
    """The 95 % interval of a rate that was seen in n independent trials; all of [0, 1] where there was none."""
    if n <= 0:
        return 0.0, 1.0
    centre = (rate + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def weighted_mean(parts: Sequence[tuple[float, float, Interval]]) -> tuple[float, Interval]:
    """The mean of independent rates, and its interval from theirs.  `parts`: (weight, rate, interval) each.

    Distances from rate to bound add up as standard deviations do (Zou and Donner 2008), so that the bounds lie askew
    where the parts' do.
    """
    total = math.fsum(weight for weight, _, _ in parts)
    rate = math.fsum(weight * rate for weight, rate, _ in parts) / total
    below = math.sqrt(math.fsum((weight * (rate - low)) ** 2 for weight, rate, (low, _) in parts)) / total
    above = math.sqrt(math.fsum((weight * (high - rate)) ** 2 for weight, rate, (_, high) in parts)) / total
    return rate, (rate - below, rate + above)


def _figures(lead_P: np.ndarray, weight_P: np.ndarray) -> dict[str, Any]:
    """The figures of some pairs from the leads of their better answers; those of weight 0 are none."""
    lead_P, weight_P = lead_P[weight_P > 0], weight_P[weight_P > 0]
    n = float(weight_P.sum())

    def mean(x_P: np.ndarray) -> float:
        return float(weight_P @ x_P) / n if n else math.nan

    accuracy = mean(np.where(lead_P == 0, 0.5, lead_P > 0))
    return {
        "accuracy": accuracy,
        "interval": wilson(accuracy, n),
        "loss": mean(np.logaddexp(0, -lead_P)),
        "lead": mean(lead_P),
        "pairs": len(lead_P),
        "ties": int((lead_P == 0).sum()),
    }


def _by_name(names: Sequence[str | None]) -> dict[str, np.ndarray]:
    array = np.asarray([name or "" for name in names])
    return {str(name): array == name for name in dict.fromkeys(array.tolist()) if name}


def _by_margin(margin_P: np.ndarray, filled_P: np.ndarray) -> dict[str, np.ndarray]:
    """Members by margin: by its value where there are few, else by quarters, named by their ends."""
    said_P = filled_P & np.isfinite(margin_P) & (margin_P != 0)
    values = np.unique(margin_P[said_P])
    if len(values) <= STEPS:
        return {f"{value:g}": said_P & (margin_P == value) for value in values}
    ends = np.quantile(margin_P[said_P], [0, 0.25, 0.5, 0.75, 1])
    quarter_P = np.clip(np.searchsorted(ends, margin_P, side="right") - 1, 0, 3)
    groups: dict[str, np.ndarray] = {}
    for q in range(4):  # quarters whose ends look alike are one
        name = f"{ends[q]:.3g} to {ends[q + 1]:.3g}"
        groups[name] = groups.get(name, False) | (said_P & (quarter_P == q))
    return groups
