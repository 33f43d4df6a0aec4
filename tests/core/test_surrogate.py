"""Ratios, clipped."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.surrogate import clipped, distance_metrics, is_clipped, log_ratio
from tests.algos.lookup import divided

RATIO = jnp.asarray([0.5, 0.9, 1.0, 1.1, 1.5])


@pytest.mark.parametrize(
    ("advantage", "loss", "slope", "share"),
    [
        (2.0, [-1.0, -1.8, -2.0, -2.2, -2.4], [-2, -2, -2, -2, 0], [0, 0, 0, 0, 1]),
        (-2.0, [1.6, 1.8, 2.0, 2.2, 3.0], [0, 2, 2, 2, 2], [1, 0, 0, 0, 0]),
        (0.0, [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ],
)
def test_by_hand(advantage: float, loss: list, slope: list, share: list) -> None:
    advantages = jnp.full(5, advantage)
    value, back = jax.vjp(lambda ratio: clipped(ratio, advantages, 0.2), RATIO)
    np.testing.assert_allclose(value, loss, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(back(jnp.ones(5))[0], slope, rtol=1e-6, atol=1e-7)
    assert is_clipped(RATIO, advantages, 0.2).tolist() == share


def test_dual_clip_bounds_what_a_bad_token_weighs() -> None:
    ratio, advantage = jnp.asarray([2.0, 10.0, 10.0]), jnp.asarray([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(clipped(ratio, advantage, 0.2, dual_clip=3.0), [2.0, 3.0, -1.2], rtol=1e-6)
    np.testing.assert_allclose(clipped(ratio, advantage, 0.2), [2.0, 10.0, -1.2], rtol=1e-6)


def test_log_ratio_is_clamped() -> None:
    found = log_ratio(jnp.asarray([-1.0, -50.0, -1.0]), jnp.asarray([-3.0, -1.0, -50.0]), 20.0)
    assert found.tolist() == [2.0, -20.0, 20.0]


def test_metrics() -> None:
    found = divided(distance_metrics(jnp.asarray([0.5, -0.25, 9.0]), jnp.asarray([1.0, 1.0, 0.0])))
    up, down = math.exp(0.5), math.exp(-0.25)
    expected = {"ratio": (up + down) / 2, "approx_kl": -0.125, "approx_kl_k3": (up - 1.5 + down - 0.75) / 2}
    assert found == pytest.approx(expected, rel=1e-6)
