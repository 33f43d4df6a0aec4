"""How well a policy answers: greedy accuracy, pass@k, maj@k, best of n, from N samples a problem.  NumPy alone.

B problems, N samples of each.  A rate comes with its 95 % interval over problems: samples of one problem are not
independent, so they are never counted as more problems.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxrl_llm.evals.preference import Interval, wilson

DRAWS = 1000  # of problems with replacement, for an interval


def greedy(right_B: np.ndarray, parsed_B: np.ndarray, ended_B: np.ndarray) -> dict[str, Any]:
    """Figures of one answer to each of B problems.

    Args:
        right_B: whether the answer is right.
        parsed_B: whether an answer could be read off it at all.
        ended_B: whether it ended by itself.

    Returns:
        `accuracy` and Wilson's `interval`; `parsed`, `ended`, the shares that did; `accuracy_of_parsed`, that among
        those that parsed, NaN where none did; `problems`.
    """
    right_B, parsed_B, ended_B = (np.asarray(each, bool) for each in (right_B, parsed_B, ended_B))
    accuracy, n = _mean(right_B), len(right_B)
    return {
        "accuracy": accuracy,
        "interval": wilson(accuracy, n),
        "parsed": _mean(parsed_B),
        "ended": _mean(ended_B),
        "accuracy_of_parsed": _mean(right_B[parsed_B]),
        "problems": n,
    }


def split_gain(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """What of a gain in accuracy is form, and what is right reasoning; both from `greedy`.

    accuracy = parsed · accuracy_of_parsed, and the change of each factor counts at the mean of the other:

        format     = (p' − p) · (a + a')/2
        reasoning  = (a' − a) · (p + p')/2          their sum is the gain

    Where nothing parsed, a is not known and is taken from the other side.
    """
    shares = [each["parsed"] for each in (before, after)]
    rates = [each["accuracy_of_parsed"] for each in (before, after)]
    known = [rate for rate in rates if not math.isnan(rate)] or [0.0]
    (p0, p1), (a0, a1) = shares, [known[-1] if math.isnan(rate) else rate for rate in rates]
    return {"format": (p1 - p0) * (a0 + a1) / 2, "reasoning": (a1 - a0) * (p0 + p1) / 2}


def pass_at(right_BN: np.ndarray, k: int) -> np.ndarray:
    """For each problem, the chance that of k of its N samples one is right: 1 − C(N − c, k)/C(N, k), c right ones.

    Unbiased in k <= N (Chen et al. 2021, arXiv 2107.03374); 1 − (1 − c/N)^k is not.

    Returns:
        float64 [B].
    """
    n = _samples(right_BN, k)
    by_right = np.array([1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)])
    return by_right[np.asarray(right_BN, bool).sum(axis=1)]


def majority_at(right_BN: np.ndarray, answers_BN: Sequence[Sequence[Hashable | None]], k: int) -> np.ndarray:
    """For each problem, the share of groups of k samples whose most frequent answer is right.

    The groups are the first k samples, the next k, and so on: N // k of them.  Of answers that are as frequent, the one
    that came first is taken.  None is no answer and has no vote; a group without an answer is wrong.

    Returns:
        float64 [B].
    """
    n = _samples(right_BN, k)
    right_BN = np.asarray(right_BN, bool)
    return np.array(
        [
            np.mean([_voted(right_N[at : at + k], answers_N[at : at + k]) for at in range(0, n - k + 1, k)])
            for right_N, answers_N in zip(right_BN, answers_BN, strict=True)
        ]
    )


def best_of(reward_BN: np.ndarray, value_BN: np.ndarray) -> np.ndarray:
    """For each problem and each n from 1 to N, the expected value of the sample of highest reward among n.

    Over all subsets of n of the N samples: in order of reward, the i-th of them (from 1) is the best of
    C(i − 1, n − 1) of the C(N, n) subsets.  Samples of equal reward are taken alike often.

    Args:
        reward_BN: what the best one is chosen by; finite.
        value_BN: what is asked of it: the reward itself, whether it is right, its KL.

    Returns:
        float64 [B, N]; column n - 1 is of the best of n.
    """
    n = _samples(reward_BN, 1)
    weight_NN = np.array(
        [[math.comb(i, m) / math.comb(n, m + 1) for m in range(n)] for i in range(n)]
    )  # [place, n - 1]
    ordered_BN = [_in_order(*each) for each in zip(np.asarray(reward_BN), np.asarray(value_BN), strict=True)]
    return np.asarray(ordered_BN, np.float64).reshape(-1, n) @ weight_NN


def sampled(
    right_BN: np.ndarray,
    answers_BN: Sequence[Sequence[Hashable | None]],
    reward_BN: np.ndarray | None = None,
    ks: Iterable[int] | None = None,
) -> dict[str, Any]:
    """Figures of N samples of each of B problems.

    Args:
        right_BN: whether a sample is right.
        answers_BN: the answer that was read off it, or None.
        reward_BN: what a reward model gives it; None: none was asked.
        ks: numbers of samples; None: the powers of two up to N, and N.

    Returns:
        `pass`, `majority`: k -> {`rate`, `interval`}; with rewards also `best_of`: n -> {`accuracy`, `interval`,
        `reward`, `reward_interval`}; `problems`, `samples` of each.  Intervals are of 95 %, by bootstrap over problems.
    """
    n = _samples(right_BN, 1)
    ks = sorted({*(2**i for i in range(n.bit_length())), n}) if ks is None else list(ks)

    def figures(value_BK: np.ndarray, name: str, interval: str = "interval") -> list[dict[str, Any]]:
        """Of each k."""
        means = value_BK.mean(axis=0).tolist()
        return [{name: mean, interval: ends} for mean, ends in zip(means, bootstrap(value_BK), strict=True)]

    passed_BK = np.stack([pass_at(right_BN, k) for k in ks], axis=1)
    voted_BK = np.stack([majority_at(right_BN, answers_BN, k) for k in ks], axis=1)
    found: dict[str, Any] = {"problems": len(right_BN), "samples": n}
    found["pass"] = dict(zip(ks, figures(passed_BK, "rate"), strict=True))
    found["majority"] = dict(zip(ks, figures(voted_BK, "rate"), strict=True))
    if reward_BN is not None:
        right_BK, reward_BK = (best_of(reward_BN, each)[:, np.array(ks) - 1] for each in (right_BN, reward_BN))
        parts = zip(figures(right_BK, "accuracy"), figures(reward_BK, "reward", "reward_interval"), strict=True)
        found["best_of"] = {k: right | reward for k, (right, reward) in zip(ks, parts, strict=True)}
    return found


def bootstrap(value_BK: np.ndarray, seed: int = 0) -> list[Interval]:
    """The 95 % interval of each column's mean, from DRAWS means over B rows drawn with replacement.

    It has no width where all rows are alike, however few they are.
    """
    rng, n = np.random.default_rng(seed), len(value_BK)
    means = np.stack([value_BK[rng.integers(n, size=n)].mean(axis=0) for _ in range(DRAWS)])
    return [(float(low), float(high)) for low, high in np.quantile(means, [0.025, 0.975], axis=0).T]


def _voted(right_K: np.ndarray, answers_K: Sequence[Hashable | None]) -> bool:
    votes = Counter(answer for answer in answers_K if answer is not None)
    if not votes:
        return False
    (winner, _), *_ = votes.most_common(1)  # which keeps the order of equal ones
    return bool(right_K[answers_K.index(winner)])


def _in_order(reward_N: np.ndarray, value_N: np.ndarray) -> np.ndarray:
    """Values in ascending order of reward, those of equal reward all their mean."""
    _, place_N, count = np.unique(reward_N, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(place_N, weights=value_N) / count, count)


def _samples(x_BN: np.ndarray, k: int) -> int:
    """N, if there is a problem and it has k samples."""
    shape = np.shape(x_BN)
    if len(shape) != 2 or 0 in shape or not 1 <= k <= shape[1]:
        raise ValueError(f"{k} samples of each problem are wanted from an array [B, N] of {shape}")
    return shape[1]


def _mean(x_B: np.ndarray) -> float:
    return float(x_B.mean()) if len(x_B) else math.nan
