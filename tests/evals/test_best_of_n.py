"""Win rates of the best of n against sums over all subsets, the bounds, and the figures by hand."""

import itertools
import math

import numpy as np
import pytest

from jaxrl_llm.evals.best_of_n import counts, curve, kl_bound, point, ties, win_bound, win_rate, win_rates

M = 6


def brute(reward_M: np.ndarray, value_M: np.ndarray, n: int) -> float:
    """Every n of the samples, each of the best of them, each sample that is none of the n."""
    rates = []
    for chosen in itertools.combinations(range(M), n):
        highest = max(reward_M[i] for i in chosen)
        for other in set(range(M)) - {*chosen}:
            best = [i for i in chosen if reward_M[i] == highest]
            rates.append(np.mean([(value_M[i] > value_M[other]) + 0.5 * (value_M[i] == value_M[other]) for i in best]))
    return float(np.mean(rates))


@pytest.mark.parametrize("n", range(1, M))
def test_win_rates_are_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(0)
    reward_BM, score_BM = rng.normal(size=(2, 5, M)).astype(np.float32)
    reward_BM[1, [1, 3, 4]] = 0.5  # equal rewards
    reward_BM[2, [0, 1]], reward_BM[2, [2, 5]] = 3.0, -3.0
    reward_BM[3] = 1.0
    score_BM[4, [0, 2]] = score_BM[4, 1]
    grade_BM = rng.random((5, M)) < 0.5
    for value_BM in (reward_BM, score_BM, grade_BM):
        wanted = [brute(*each, n) for each in zip(reward_BM, value_BM, strict=True)]
        np.testing.assert_allclose(win_rates(reward_BM, value_BM, [n])[:, 0], wanted, atol=1e-14)


def test_by_its_own_reward_the_best_of_n_wins_as_the_bound_says() -> None:
    """Exactly n/(n + 1) where nothing ties, of any pool; less where something does, 1/2 where everything does."""
    rng, ns = np.random.default_rng(1), [1, 2, 3, 32, 64]
    reward_BM = rng.normal(size=(3, 65))
    bounds = [win_bound(n) for n in ns]
    np.testing.assert_allclose(win_rates(reward_BM, reward_BM, ns), [bounds] * 3, rtol=1e-12)
    assert bounds[:3] == [1 / 2, 2 / 3, 3 / 4]
    tied = win_rates(np.round(reward_BM), np.round(reward_BM), ns)
    assert (tied[:, 1:4] < bounds[1:4]).all()
    assert (np.diff(tied, axis=1) > 0).all()
    assert ties(reward_BM) == 0
    assert ties(np.array([[1, 1, 2, 1], [1, 2, 3, 2]])) == (3 + 1) / 12
    alike = np.zeros((1, 65))
    np.testing.assert_allclose(win_rates(alike, alike, ns), [[0.5] * 5])


def test_win_rates_by_hand() -> None:
    """Rewards 1, 2, 3, of which 1 and 3 are right: the best of two is 3, 3 or 2, the other one 2, 1 or 3."""
    reward_BM, right_BM = np.float32([[3, 1, 2]]), np.array([[True, True, False]])
    np.testing.assert_allclose(win_rates(reward_BM, reward_BM, [1, 2]), [[1 / 2, (1 + 1 + 0) / 3]])
    # (3, 1) over 2: right over wrong; (3, 2) over 1: both right; (1, 2), of which 2, over 3: wrong under right
    np.testing.assert_allclose(win_rates(reward_BM, right_BM, [2]), [[(1 + 0.5 + 0) / 3]])


def test_the_bounds() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(4) == pytest.approx(1.3862943611 - 0.75)
    assert kl_bound(64) == pytest.approx(3.1745, abs=1e-4)
    assert counts(16) == [1, 2, 4, 8, 16]
    assert counts(20) == [1, 2, 4, 8, 16, 20]


def test_the_kl_of_the_best_of_n_is_at_most_the_bound() -> None:
    """Of three answers the exact law of the best: F(i)^n − F(i − 1)^n, where F sums what scores no higher."""
    p = np.array([0.7, 0.2, 0.1])
    for n in (2, 4, 16):
        law = np.diff(np.concatenate([[0], np.cumsum(p)]) ** n)
        assert float(law @ np.log(law / p)) < kl_bound(n)
    p = np.full(10_000, 1e-4)
    law = np.diff(np.concatenate([[0], np.cumsum(p)]) ** 4)
    assert float(law @ np.log(law / p)) == pytest.approx(kl_bound(4), abs=1e-3)


def test_another_policys_wins_by_hand() -> None:
    value_BL, other_BM = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(win_rate(value_BL, other_BM), [(1 + 0.5 + 0 + 3) / 6, (0.5 + 0.5 + 0) / 3])


def test_figures_of_a_curve_and_of_a_point() -> None:
    reward_BM = np.float32([[5, 1, 3], [1, 2, 6]])
    right_BM = np.array([[True, False, False], [False, True, False]])
    found = curve(reward_BM, {"grade": right_BM}, most=2)
    assert [*found] == [1, 2]
    assert found[1]["reward"] == pytest.approx(3)
    assert found[2]["reward"] == pytest.approx(((5 + 5 + 3) / 3 + (2 + 6 + 6) / 3) / 2)
    assert found[2]["accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found[2]["reward_interval"] == pytest.approx((13 / 3, 14 / 3))
    assert found[2]["wins"]["reward"]["rate"] == pytest.approx(2 / 3)
    assert found[2]["win_bound"] == 2 / 3
    assert found[2]["kl_bound"] == pytest.approx(math.log(2) - 0.5)
    assert found[2]["wins"]["grade"]["rate"] == pytest.approx(np.mean(win_rates(reward_BM, right_BM, [2])))
    assert "accuracy" not in curve(reward_BM, {}, most=2)[2]

    values = {"reward": np.array([[4.0], [0.0]]), "grade": np.array([[True], [True]])}
    at = point(np.array([[2.0], [1.0]]), values, {"reward": reward_BM, "grade": right_BM}, np.array([[3], [4]]))
    assert (at["kl"], at["reward"], at["accuracy"], at["length"]) == (1.5, 2, 1, 3.5)
    assert at["kl_interval"] == (1, 2)
    assert at["wins"]["reward"]["rate"] == pytest.approx((2 / 3 + 0) / 2)
    assert at["wins"]["grade"]["rate"] == pytest.approx((1 / 3 * 0.5 + 2 / 3 + 1 / 3 * 0.5 + 2 / 3) / 2)


@pytest.mark.parametrize("n", [0, 3])
def test_there_must_be_another_sample(n: int) -> None:
    with pytest.raises(ValueError, match=f"the best of {n} and another one"):
        win_rates(np.zeros((1, 3)), np.zeros((1, 3)), [n])
