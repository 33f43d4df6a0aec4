"""What answers are worth: the one home of rewards.  Float32 on the host, checked, composed by rules.

    parts          their weighted sum, or one of two by Llama 2's rule
    normalise      by the answers of the round, or by all so far; the mean kept or not
    clip
    length         what tokens cost
    missing end    what an answer costs that was cut off, or is worth instead

What a reward model or a grader is, others know: here it is a `Scorer`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jaxrl_llm.errors import UserError
from jaxrl_llm.rollout.config import LengthPenaltyConfig, RewardsConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.types import ScoreScale

# scorer(prompts, answers as text) -> one number for each of the B answers, floating, [B]
Scorer = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


class Written(NamedTuple):
    """What the rules ask of B answers besides their scores."""

    ended_B: np.ndarray  # bool: by itself, not by the limit
    lengths_B: np.ndarray  # int tokens, the end token included
    safety_B: np.ndarray  # bool: the prompt is about safety


@dataclass(frozen=True)
class Moments:
    """Mean and variance of all numbers seen, in double precision; JSON keeps them to the bit."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of (x − mean)²

    def including(self, x_B: np.ndarray) -> "Moments":
        """With B more numbers (Chan, Golub and LeVeque 1979)."""
        x_B = np.asarray(x_B, np.float64)
        n, mean = len(x_B), float(np.mean(x_B))
        count, apart = self.count + n, mean - self.mean
        squares = self.squares + float(np.sum(np.square(x_B - mean))) + apart**2 * self.count * n / count
        return Moments(count, self.mean + apart * n / count, squares)

    def normalised(self, x_B: np.ndarray, keep_mean: bool) -> np.ndarray:
        """(x − mean)/sqrt(variance + 1e-8), and the mean added again where it is kept; biased variance."""
        white_B = (x_B - self.mean) / math.sqrt(self.squares / max(self.count, 1) + 1e-8)
        return white_B + self.mean if keep_mean else white_B


class Composed(NamedTuple):
    """Rewards, and what there is to know of them."""

    score_B: np.ndarray  # float32
    parts: dict[str, np.ndarray]  # float32 [B] by name, unweighted, penalties included
    moments: Moments  # of all combined scores so far, these included
    metrics: dict[str, float]  # reward/NAME: mean of a part; reward/combined: mean before normalisation


def compose(parts: Mapping[str, np.ndarray], written: Written, config: RewardsConfig, moments: Moments) -> Composed:
    """Rewards of B answers from what scorers gave them, by the rules of the config, in the order above.

    Args:
        parts: by name of the config's parts, penalties for length aside: floating [B].
        written: what else there is to know of the answers.
        config: the rules.
        moments: of the combined scores of the rounds before.

    Raises:
        UserError: a part is not floating, not finite, or not one number an answer.
    """
    n = len(written.ended_B)
    given = {name: checked(name, score_B, [f"answer {row}" for row in range(n)]) for name, score_B in parts.items()}
    combined_B, metrics = _combined(given, written, config)
    moments = moments.including(combined_B)
    score_B = combined_B
    if config.normalise != "none":
        by = moments if config.normalise == "running" else Moments().including(combined_B)
        score_B = by.normalised(score_B, config.keep_mean)
    if config.clip is not None:
        score_B = np.clip(score_B, -config.clip, config.clip)
    penalties = {name: part for name, part in config.parts.items() if isinstance(part, LengthPenaltyConfig)}
    for name, part in penalties.items():
        given[name] = np.minimum(part.free - written.lengths_B, 0).astype(np.float32)
        score_B = score_B + part.weight * given[name].astype(np.float64)
    if config.missing_end != "none":
        instead_B = config.missing_end_value + (score_B if config.missing_end == "add" else 0.0)
        score_B = np.where(written.ended_B, score_B, instead_B)
    metrics |= {f"reward/{name}": float(np.mean(part_B, dtype=np.float64)) for name, part_B in given.items()}
    return Composed(score_B.astype(np.float32), given, moments, metrics)


def checked(name: str, score_B: np.ndarray, origins: Sequence[str]) -> np.ndarray:
    """The scores as float32 [B], where `origins` says what each of the B rows is.

    Raises:
        UserError: see `compose`; the part and the row are named.
    """
    score_B, n = np.asarray(score_B), len(origins)
    if not np.issubdtype(score_B.dtype, np.floating):
        raise UserError(
            f"the reward part {name} gave {score_B.dtype} numbers: rewards are fractions, and would be rounded\n"
            "  mend: a scorer that returns float32"
        )
    if score_B.shape != (n,):
        raise UserError(
            f"the reward part {name} gave numbers of shape {list(score_B.shape)} for {n} answers\n"
            f"  mend: a scorer that returns [{n}], one number each"
        )
    with np.errstate(over="ignore"):
        score_B = score_B.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(score_B))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"the reward part {name} gave {score_B[row]} for row {row} of {n} ({origins[row]}), and so for "
            f"{len(wrong)} in all: rewards must be finite\n  mend: look at that prompt, and at the model or grader"
        )
    return score_B


def scaled(score_B: np.ndarray, scale: ScoreScale, how: Literal["raw", "centred", "standardised"]) -> np.ndarray:
    """Raw scores of a reward model [B], moved so that its reference answers lie at 0, and made to deviate by 1."""
    if how == "raw":
        return score_B
    centred_B = score_B + np.float32(scale.bias)
    return centred_B / np.float32(scale.std) if how == "standardised" else centred_B


def _combined(
    given: Mapping[str, np.ndarray], written: Written, config: RewardsConfig
) -> tuple[np.ndarray, dict[str, float]]:
    """float64 [B], and metrics."""
    weighed = {name: config.parts[name].weight * score_B.astype(np.float64) for name, score_B in given.items()}
    if config.combine == "sum":
        combined_B, metrics = sum(weighed.values(), start=np.zeros(len(written.ended_B))), {}
    else:
        # sigmoid(raw) < threshold, on the raw score: float32 sigmoids of large scores are all 1
        low = math.log(config.safety_threshold / (1.0 - config.safety_threshold))
        safety_first_B = written.safety_B | (given["safety"] < low)
        combined_B = np.where(safety_first_B, weighed["safety"], weighed["helpfulness"])
        metrics = {"reward/safety_share": float(np.mean(safety_first_B))}
    return combined_B, metrics | {"reward/combined": float(np.mean(combined_B))}
