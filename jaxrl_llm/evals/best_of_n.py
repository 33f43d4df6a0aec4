"""What taking the best of n samples is worth, for every n from one pool of samples a prompt.  NumPy alone.

B prompts, M samples of each in the pool.  The best is the one of highest reward; of equal ones each is taken alike
often.  An expectation is over all subsets of n of the M samples, not over some that were drawn.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl_llm.evals.generation import best_of, bootstrap


def kl_bound(n: int) -> float:
    """log n − (n − 1)/n, in nats an answer: KL(best of n ‖ the policy that is sampled from) is at most this.

    It is that number where no answer has a probability to speak of and no rewards tie (Beirami et al. 2024, arXiv
    2401.01879).
    """
    return math.log(n) - (n - 1) / n


def win_bound(n: int) -> float:
    """n/(n + 1): how often the best of n is above one more sample, by the reward that chose it; ties lessen it."""
    return n / (n + 1)


def counts(most: int) -> list[int]:
    """The n that are reported: the powers of two up to `most`, and `most`."""
    return sorted({*(2**i for i in range(most.bit_length())), most})


def ties(reward_BM: np.ndarray) -> float:
    """The share of pairs of samples of one prompt whose rewards are equal."""
    equal = [np.unique(reward_M, return_counts=True)[1] for reward_M in reward_BM]
    n_prompts, m = np.shape(reward_BM)
    return float(sum((count * (count - 1)).sum() for count in equal)) / (n_prompts * m * (m - 1))


def win_rates(reward_BM: np.ndarray, value_BM: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """For each prompt, how often the best of n is better than another sample of its pool, by a value; a tie is half.

    Let the samples be in order of reward, those of equal reward in any.  The one at place p (from 0) is the best of n
    for C(p, n − 1) subsets.  The other sample, at place q, is none of the n: above p it never is, and below p it is not
    in C(p − 1, n − 1) of the subsets.  Of all C(M, n)·(M − n) choices of n samples and another one, these are won

        sum over p of  C(p, n − 1)·sum over q > p of w(p, q)  +  C(p − 1, n − 1)·sum over q < p of w(p, q)

    with w = 1 where p has the higher value, 1/2 where the two are equal, else 0.

    Args:
        reward_BM: what the best one is chosen by; finite.
        value_BM: what it is compared by: the reward itself, the score of another judge, whether the answer is right.
        ns: numbers of samples, 1 to M − 1.

    Returns:
        float64 [B, len(ns)].  By the reward itself, n/(n + 1) where no two are equal.
    """
    weight_KMM = np.stack([_win_weights(np.shape(reward_BM)[1], n) for n in ns])
    won = (_in_order(reward_M, _wins(value_M, value_M)) for reward_M, value_M in zip(reward_BM, value_BM, strict=True))
    return np.stack([np.tensordot(weight_KMM, won_MM, axes=2) for won_MM in won])


def win_rate(value_BL: np.ndarray, other_BM: np.ndarray) -> np.ndarray:
    """For each prompt, how often one policy's L samples are better than the M of another; a tie is half.  [B]."""
    return np.array([_wins(*each).mean() for each in zip(value_BL, other_BM, strict=True)])


def curve(reward_BM: np.ndarray, values: Mapping[str, np.ndarray], most: int) -> dict[int, dict[str, Any]]:
    """Figures of the best of n for each n of `counts(most)`.

    Args:
        reward_BM: of the pool; M is above `most`, so that the best of so many can be compared with another sample.
        values: name -> [B, M], by which besides the reward it is said who wins; `grade` is whether the answer is right.
        most: the largest n.

    Returns:
        n -> {`kl_bound`, `win_bound`, `reward`, `reward_interval`, `wins`: of "reward" and each of `values` {`rate`,
        `interval`}}, and with `grade` also `accuracy` and its `interval`.  Intervals are of 95 %, by bootstrap over
        prompts.
    """
    ns = counts(most)
    at = np.array(ns) - 1
    found: list[dict[str, Any]] = [{"kl_bound": kl_bound(n), "win_bound": win_bound(n)} for n in ns]
    found = _with(found, best_of(reward_BM, reward_BM)[:, at], "reward", "reward_interval")
    wins = {
        name: _with([{} for _ in ns], win_rates(reward_BM, value_BM, ns), "rate", "interval")
        for name, value_BM in {"reward": reward_BM, **values}.items()
    }
    found = [each | {"wins": {name: of[k] for name, of in wins.items()}} for k, each in enumerate(found)]
    if "grade" in values:
        found = _with(found, best_of(reward_BM, values["grade"])[:, at], "accuracy", "interval")
    return dict(zip(ns, found, strict=True))


def point(
    kl_BL: np.ndarray, values: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], length_BL: np.ndarray
) -> dict[str, Any]:
    """Figures of another policy, of which there are L samples a prompt.

    Args:
        kl_BL: log p of each sample under it less that under the policy of the pool, nats; their mean estimates the KL.
        values: name -> [B, L], of its samples; `reward` and those of `curve`.
        others: name -> [B, M], of the pool.
        length_BL: tokens.

    Returns:
        {`kl`, `kl_interval`, `reward`, `reward_interval`, `wins` over one sample of the pool, as in `curve`,
        `length`}, and with `grade` also `accuracy` and `interval`.
    """
    means = {"kl": kl_BL, "reward": values["reward"], **({"accuracy": values["grade"]} if "grade" in values else {})}
    found: list[dict[str, Any]] = [{"length": float(np.mean(length_BL))}]
    for name, value_BL in means.items():
        interval = "interval" if name == "accuracy" else f"{name}_interval"
        found = _with(found, np.asarray(value_BL, np.float64).mean(axis=1, keepdims=True), name, interval)
    wins = {name: win_rate(value_BL, others[name])[:, None] for name, value_BL in values.items()}
    return found[0] | {"wins": {name: _with([{}], rate_B1, "rate", "interval")[0] for name, rate_B1 in wins.items()}}


def _with(rows: list[dict[str, Any]], value_BK: np.ndarray, name: str, interval: str) -> list[dict[str, Any]]:
    """Each of K rows with the mean of its column, and its interval."""
    means = value_BK.mean(axis=0).tolist()
    return [
        row | {name: mean, interval: ends} for row, mean, ends in zip(rows, means, bootstrap(value_BK), strict=True)
    ]


def _win_weights(m: int, n: int) -> np.ndarray:
    """[best one's place, other one's place]: the share of all choices of n of m samples and another one."""
    if not 1 <= n < m:
        raise ValueError(f"the best of {n} and another one are wanted of {m} samples")
    every = math.comb(m, n) * (m - n)
    above, below = ([math.comb(max(p - less, 0), n - 1) / every * (p >= less) for p in range(m)] for less in (0, 1))
    p_M1, q_1M = np.arange(m)[:, None], np.arange(m)
    return np.where(q_1M > p_M1, np.array(above)[:, None], np.where(q_1M < p_M1, np.array(below)[:, None], 0.0))


def _wins(value_L: np.ndarray, other_M: np.ndarray) -> np.ndarray:
    """float64 [L, M]: 1 where the value is the higher one, 1/2 where both are equal."""
    value_L1, other_1M = np.asarray(value_L)[:, None], np.asarray(other_M)[None]
    return (value_L1 > other_1M) + 0.5 * (value_L1 == other_1M)


def _in_order(reward_M: np.ndarray, win_MM: np.ndarray) -> np.ndarray:
    """[place, place] of what is said of pairs of samples, in ascending order of reward.

    Samples of equal reward stand at their places in every order: a pair of places has the mean of the pairs of samples
    that come to stand there, of which a sample with itself is none.
    """
    _, group_M, size_G = np.unique(reward_M, return_inverse=True, return_counts=True)
    member_GM = np.equal.outer(np.arange(len(size_G)), group_M).astype(np.float64)
    pairs_GG = np.outer(size_G, size_G) - np.diag(size_G)
    off_MM = win_MM * ~np.eye(len(group_M), dtype=bool)
    mean_GG = member_GM @ off_MM @ member_GM.T / np.maximum(pairs_GG, 1)
    place_M = np.sort(group_M)
    return mean_GG[np.ix_(place_M, place_M)]
