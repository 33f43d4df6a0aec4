"""Estimators of a KL, and the two rules that answer it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.kl import doubling_coefficient, k1, k3, proportional_coefficient

P, Q = np.asarray([0.7, 0.2, 0.1]), np.asarray([0.3, 0.3, 0.4])


def test_by_hand() -> None:
    assert float(k1(jnp.asarray(-1.0), jnp.asarray(-3.0))) == 2.0
    assert float(k3(jnp.asarray(-1.0), jnp.asarray(-3.0))) == pytest.approx(math.exp(-2) - 1 + 2, rel=1e-6)
    assert float(k3(jnp.asarray(-3.0), jnp.asarray(-1.0))) == pytest.approx(math.exp(2) - 1 - 2, rel=1e-6)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_both_are_unbiased(estimator) -> None:
    """Their expectation over tokens of the first policy is KL(p ‖ q)."""
    expected = float(np.sum(P * np.log(P / Q)))
    assert float(np.sum(P * estimator(jnp.log(P), jnp.log(Q)))) == pytest.approx(expected, rel=1e-5)


def test_k3_is_never_negative() -> None:
    small = np.geomspace(1e-12, 1e-2, 500)
    apart = np.concatenate([-small, small, [0.0], np.linspace(-100, 100, 401)]).astype(np.float32)
    found = jax.jit(k3)(jnp.asarray(apart), jnp.zeros(apart.shape))
    assert float(found.min()) >= 0.0
    assert float(k3(jnp.asarray(-1.5), jnp.asarray(-1.5))) == 0.0


def test_k3_stays_finite() -> None:
    value, grad = jax.value_and_grad(k3)(jnp.asarray(-1000.0), jnp.asarray(-1.0))
    assert np.isfinite(value)
    assert grad == 0.0


def test_the_gradient_of_k3_draws_to_the_other_policy() -> None:
    """Down the gradient log p rises where it is below log q, and falls where it is above."""
    below, above = jax.vmap(jax.grad(k3))(jnp.asarray([-3.0, -1.0]), jnp.asarray([-2.0, -2.0]))
    assert float(below) == pytest.approx(1 - math.exp(1), rel=1e-6)
    assert float(above) == pytest.approx(1 - math.exp(-1), rel=1e-6)


@pytest.mark.parametrize(
    ("kl", "n", "expected"),
    [
        (6.0, 512, 0.15),
        (6.6, 512, 0.15 * (1 + 0.1 * 512 / 10_000)),
        (12.0, 512, 0.15 * (1 + 0.2 * 512 / 10_000)),  # no faster than by a fifth of n/horizon
        (3.0, 512, 0.15 * (1 - 0.2 * 512 / 10_000)),
        (-1.0, 64, 0.15 * (1 - 0.2 * 64 / 10_000)),
    ],
)
def test_the_proportional_rule(kl: float, n: int, expected: float) -> None:
    assert proportional_coefficient(0.15, kl, 6.0, 10_000, n) == pytest.approx(expected, rel=1e-12)


def test_a_hundred_rollouts_raise_it_by_no_more_than_a_factor() -> None:
    coefficient = 1.0
    for _ in range(100):
        coefficient = proportional_coefficient(coefficient, 1e6, 6.0, 10_000, 512)
    assert coefficient == pytest.approx(2.770, abs=1e-3)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0151, 6.0), (0.0149, 3.0), (0.01, 3.0), (0.0067, 3.0), (0.0066, 1.5), (-0.1, 1.5)]
)
def test_the_doubling_rule(kl: float, expected: float) -> None:
    assert doubling_coefficient(3.0, kl, 0.01) == expected
