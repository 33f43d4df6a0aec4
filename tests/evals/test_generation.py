"""pass@k, maj@k and best of n against sums over all subsets, and the figures by hand."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from jaxrl_llm.evals.generation import best_of, bootstrap, greedy, majority_at, pass_at, sampled, split_gain
from jaxrl_llm.evals.preference import wilson

N = 6


def subsets(n: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(N), n))


@pytest.mark.parametrize("k", range(1, N + 1))
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    right_BN = np.array([[i < c for i in range(N)] for c in range(N + 1)])
    wanted = [np.mean([right_N[list(subset)].any() for subset in subsets(k)]) for right_N in right_BN]
    np.testing.assert_allclose(pass_at(right_BN, k), wanted, rtol=1e-14)


def test_pass_at_k_by_hand() -> None:
    """3 of 10 right, k = 5: 1 − C(7, 5)/C(10, 5) = 1 − 21/252; and 1 − .7^5 = .83 would be another number."""
    assert pass_at(np.arange(10)[None] < 3, 5).tolist() == [1 - 21 / 252]
    assert pass_at(np.arange(1100)[None] < 1, 550).tolist() == [0.5]  # binomials past the largest float


@pytest.mark.parametrize("n", range(1, N + 1))
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(0)
    reward_BN, value_BN = rng.normal(size=(4, N)).astype(np.float32), rng.normal(size=(4, N)).astype(np.float32)
    reward_BN[2, [1, 3, 4]] = 0.5  # equal ones
    reward_BN[3] = 1.0
    wanted = []
    for reward_N, value_N in zip(reward_BN, value_BN.astype(np.float64), strict=True):
        best = [[i for i in each if reward_N[i] == max(reward_N[list(each)])] for each in subsets(n)]
        wanted.append(np.mean([value_N[of].mean() for of in best]))
    np.testing.assert_allclose(best_of(reward_BN, value_BN)[:, n - 1], wanted, atol=1e-12)


def test_best_of_n_by_hand() -> None:
    """Rewards 1, 2, 3: the best of two is 3 in two pairs of three and 2 in one."""
    reward_BN = np.float32([[3, 1, 2]])
    np.testing.assert_allclose(best_of(reward_BN, reward_BN), [[2, 8 / 3, 3]])
    np.testing.assert_allclose(best_of(reward_BN, np.array([[False, True, True]])), [[2 / 3, 1 / 3, 0]], atol=1e-15)


@pytest.mark.parametrize(
    ("answers", "right", "k", "share"),
    [
        ("abbc", 0b0110, 4, 1.0),
        ("abba", 0b0110, 4, 0.0),  # a tie, and a came first
        ("abba", 0b1001, 4, 1.0),
        ("--b-", 0b0010, 4, 1.0),  # one vote
        ("-aab", 0b0001, 4, 0.0),
        ("----", 0b0000, 4, 0.0),
        ("abba", 0b1001, 1, 0.5),
        ("aabb", 0b1100, 2, 0.5),  # aa, bb
        ("abbb", 0b0111, 3, 1.0),  # abb; the last sample is left over
    ],
)
def test_majority_by_hand(answers: str, right: int, k: int, share: float) -> None:
    right_BN = np.array([[bit == "1" for bit in f"{right:04b}"]])
    assert majority_at(right_BN, [[None if each == "-" else each for each in answers]], k).tolist() == [share]


def test_equal_numbers_are_one_vote_each() -> None:
    answers = [[Fraction(7), Fraction("1/2"), Fraction("0.5")]]
    assert majority_at(np.array([[False, True, True]]), answers, 3).tolist() == [1.0]


def test_greedy_by_hand() -> None:
    found = greedy(np.array([1, 1, 0, 0, 0]), np.array([1, 1, 1, 1, 0]), np.array([1, 0, 1, 1, 1]))
    assert found.pop("interval") == wilson(0.4, 5)
    assert found == {"accuracy": 0.4, "parsed": 0.8, "ended": 0.8, "accuracy_of_parsed": 0.5, "problems": 5}
    assert math.isnan(greedy(np.zeros(2), np.zeros(2), np.zeros(2))["accuracy_of_parsed"])


@pytest.mark.parametrize(
    ("before", "after", "form", "reasoning"),
    [
        ((1.0, 0.4), (1.0, 0.7), 0.0, 0.3),
        ((0.5, 0.6), (1.0, 0.6), 0.3, 0.0),
        ((0.5, 0.4), (1.0, 0.8), 0.3, 0.3),
        ((0.0, math.nan), (0.9, 0.5), 0.45, 0.0),
        ((0.9, 0.5), (0.0, math.nan), -0.45, 0.0),
        ((0.0, math.nan), (0.0, math.nan), 0.0, 0.0),
    ],
)
def test_a_gain_is_split(
    before: tuple[float, float], after: tuple[float, float], form: float, reasoning: float
) -> None:
    names = ("parsed", "accuracy_of_parsed")
    found = split_gain(*(dict(zip(names, each, strict=True)) for each in (before, after)))
    assert found == pytest.approx({"format": form, "reasoning": reasoning})


def test_a_bootstrapped_interval_holds_the_truth_19_times_of_20() -> None:
    value_BK = np.random.default_rng(0).beta(2, 3, size=(100, 300))
    found = bootstrap(value_BK)
    assert 0.91 <= np.mean([low <= 0.4 <= high for low, high in found]) <= 0.98
    assert np.mean(np.diff(found)) < np.diff(wilson(0.4, 100))[0]
    assert found == bootstrap(value_BK) != bootstrap(value_BK, seed=1)


def test_figures_of_samples() -> None:
    right_BN = np.array([[1, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    answers = [["a", "b", None, "c", "a"], ["x", "y", "y", "z", None]]
    reward_BN = np.float32([[5, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    found = sampled(right_BN, answers, reward_BN)
    assert (found["problems"], found["samples"]) == (2, 5)
    assert [*found["pass"]] == [*found["majority"]] == [*found["best_of"]] == [1, 2, 4, 5]
    assert found["pass"][1]["rate"] == pytest.approx(0.2)
    assert found["pass"][2]["rate"] == pytest.approx((1 - 3 / 10) / 2)
    assert found["majority"][5] == {"rate": 0.5, "interval": (0.0, 1.0)}  # a, y
    assert found["majority"][2]["rate"] == pytest.approx((0.5 + 0) / 2)  # groups ab, c
    assert found["best_of"][1]["reward"] == pytest.approx(3)
    assert found["best_of"][5]["accuracy"] == 0.5
    assert found["best_of"][5]["reward"] == 5
    assert found["best_of"][5]["reward_interval"] == (5, 5)
    assert found["best_of"][2]["accuracy"] == pytest.approx((4 + 3) / 10 / 2)
    assert [*sampled(right_BN, answers, ks=[3])["pass"]] == [3]
    assert "best_of" not in sampled(right_BN, answers)


def test_more_samples_than_there_are_is_an_error() -> None:
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"{k} samples"):
            pass_at(np.zeros((2, 3), bool), k)
    with pytest.raises(ValueError, match="samples"):
        best_of(np.zeros((0, 3)), np.zeros((0, 3)))
