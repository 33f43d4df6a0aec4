"""Rewards and advantages against plain loops."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.advantages import gae, group_relative, last_tokens, leave_one_out, token_rewards

# Answers that end early, fill their row, stand at its left, have a hole, are one token, or are not there.
WEIGHTS = np.asarray(
    [
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)
LAST = [4, 6, 2, 5, 6, None]


def numbers(seed: int, shape: Sequence[int] = WEIGHTS.shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def looped(reward: np.ndarray, value: np.ndarray, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each answer on its own, from its last token to its first, in double precision."""
    advantages, returns = np.zeros(WEIGHTS.shape), np.zeros(WEIGHTS.shape)
    for b, weights in enumerate(WEIGHTS):
        next_value = next_advantage = 0.0
        for t in reversed(np.flatnonzero(weights)):
            delta = reward[b, t] + gamma * next_value - value[b, t]
            next_advantage = delta + gamma * lam * next_advantage
            next_value = value[b, t]
            advantages[b, t], returns[b, t] = next_advantage, next_advantage + next_value
    return advantages, returns


def test_the_last_token_is_the_last_one_that_counts() -> None:
    found = np.asarray(last_tokens(jnp.asarray(WEIGHTS)))
    assert [list(np.flatnonzero(row)) for row in found] == [[] if t is None else [t] for t in LAST]


def test_the_score_comes_with_the_last_token_and_the_kl_with_each() -> None:
    score, k1, beta = numbers(0, (6,)), numbers(1), np.asarray([0.1, 0.1, 0.1, 0.2, 0.1, 0.1], np.float32)
    found = np.asarray(jax.jit(token_rewards)(score, np.where(WEIGHTS > 0, k1, np.nan), beta, WEIGHTS))
    expected = np.where(WEIGHTS > 0, -beta[:, None] * k1, 0.0)
    for b, t in enumerate(LAST):
        if t is not None:
            expected[b, t] += score[b]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.sum(1)[:5], (score - beta * (WEIGHTS * k1).sum(1))[:5], rtol=1e-5)


def test_fractions_of_a_reward_survive() -> None:
    found = token_rewards(jnp.asarray([0.3]), jnp.zeros((1, 2)), jnp.asarray([0.1]), jnp.ones((1, 2)))
    assert found.dtype == jnp.float32
    assert found.tolist() == [[0.0, pytest.approx(0.3)]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.95), (1.0, 1.0), (0.8, 0.0), (1.0, 0.5)])
def test_gae_equals_a_loop(gamma: float, lam: float) -> None:
    reward, value = numbers(2), numbers(3)
    junk = np.where(WEIGHTS > 0, value, np.nan)  # nobody asks the critic about prompts and padding
    found = jax.jit(gae, static_argnums=(3, 4))(reward, junk, WEIGHTS, gamma, lam)
    for array, expected in zip(found, looped(reward, value, gamma, lam), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


def test_gae_of_micro_batches_is_that_of_their_rows() -> None:
    reward, value = numbers(2), numbers(3)
    cut = [x.reshape(3, 2, 7) for x in (reward, value, WEIGHTS)]
    for whole, parts in zip(gae(reward, value, WEIGHTS, 1.0, 0.95), gae(*cut, 1.0, 0.95), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.reshape(parts, (6, 7)), whole)


def test_without_discount_a_return_is_the_sum_of_what_follows() -> None:
    _, returns = gae(jnp.asarray([[0.0, 1.0, 2.0, 4.0]]), numbers(0, (1, 4)), jnp.ones((1, 4)), 1.0, 1.0)  # type: ignore[arg-type]
    np.testing.assert_allclose(returns, [[7.0, 7.0, 6.0, 4.0]], rtol=1e-6)


# Groups of three, two and one, in no order; the last two places hold no answer, though one has the number of a group.
GROUP = np.asarray([[7, -2, 7, 0], [-2, 7, 7, 3]], np.int32)
REWARD = np.asarray([[1.0, 0.5, 2.0, 9.0], [0.25, 6.0, 100.0, 100.0]], np.float32)
IS_ANSWER = np.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)


def test_group_relative() -> None:
    mean, std = 3.0, np.sqrt((4 + 1 + 9) / 2)
    centred = np.asarray([[1 - mean, 0.125, 2 - mean, 0], [-0.125, 6 - mean, 0, 0]])
    two = np.sqrt(2 * 0.125**2)
    divisor = np.asarray([[std, two, std, 0], [two, std, 0, 0]]) + 1e-4
    np.testing.assert_allclose(group_relative(REWARD, GROUP, IS_ANSWER, by_std=False), centred, rtol=1e-6)
    np.testing.assert_allclose(group_relative(REWARD, GROUP, IS_ANSWER, by_std=True), centred / divisor, rtol=1e-5)


def test_leave_one_out() -> None:
    expected = [[1 - 4, 0.25, 2 - 3.5, 0], [-0.25, 6 - 1.5, 0, 0]]
    np.testing.assert_allclose(leave_one_out(REWARD, GROUP, IS_ANSWER), expected, rtol=1e-6)


@pytest.mark.parametrize("by_std", [True, False])
def test_equal_rewards_teach_nothing(by_std: bool) -> None:
    reward, group, there = jnp.full((1, 7), 0.1), jnp.zeros((1, 7), jnp.int32), jnp.ones((1, 7))
    np.testing.assert_allclose(group_relative(reward, group, there, by_std), 0.0, atol=1e-3)
    np.testing.assert_allclose(leave_one_out(reward, group, there), 0.0, atol=1e-7)
