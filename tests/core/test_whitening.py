"""Whitening over what counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.whitening import mean_and_variance, whiten

X = np.asarray([[[1.0, 2.0, np.nan], [4.0, np.inf, 9.0]]], np.float32)  # [M, b, T]
WEIGHTS = np.asarray([[[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]], np.float32)
VALID = np.asarray([1.0, 2.0, 4.0, 9.0])  # mean 4, biased variance (9 + 4 + 0 + 25)/4


def test_mean_and_variance_are_those_of_what_counts() -> None:
    mean, variance = mean_and_variance(jnp.asarray(X), jnp.asarray(WEIGHTS))
    assert (float(mean), float(variance)) == pytest.approx((4.0, 9.5))
    assert [float(x) for x in mean_and_variance(jnp.asarray(X), jnp.zeros_like(X))] == [0.0, 0.0]


@pytest.mark.parametrize(("keep_mean", "shift"), [(False, 0.0), (True, 4.0)])
def test_whitening_ignores_padding(keep_mean: bool, shift: float) -> None:
    found = np.asarray(jax.jit(whiten, static_argnums=2)(jnp.asarray(X), jnp.asarray(WEIGHTS), keep_mean))
    np.testing.assert_allclose(found[WEIGHTS > 0], (VALID - 4) / np.sqrt(9.5 + 1e-8) + shift, rtol=1e-6)
    assert not found[WEIGHTS == 0].any()


def test_what_does_not_vary_becomes_0() -> None:
    """1e-8 under the root: no division by 0, and noise of 1e-4 is still raised to a variance of a half."""
    assert not whiten(jnp.full(4, 0.25), jnp.ones(4)).any()
    found = whiten(jnp.asarray([-1e-4, 1e-4]), jnp.ones(2))
    np.testing.assert_allclose(found, [-(0.5**0.5), 0.5**0.5], rtol=1e-5)
