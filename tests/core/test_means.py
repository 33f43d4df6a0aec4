"""Undivided means."""

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.core.means import mean_of


def test_totals_and_counts() -> None:
    total, count = mean_of(jnp.asarray([1.0, 2.0, 8.0]), jnp.asarray([1.0, 0.5, 0.0]))
    assert (float(total), float(count)) == (2.0, 1.5)
    assert float(mean_of(jnp.asarray([3.0, 4.0]), jnp.asarray([True, False])).total) == 3.0


def test_what_has_no_weight_may_be_anything() -> None:
    weights = jnp.asarray([1.0, 0.0])
    total, grad = jax.value_and_grad(lambda x: mean_of(x, weights).total)(jnp.asarray([2.0, jnp.nan]))
    assert float(total) == 2.0
    assert grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1,), ()])
def test_shapes_never_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        mean_of(jnp.ones(3), jnp.ones(shape))
