"""Mean 0 and variance 1, over what counts."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl_llm.core.means import mean_of


def mean_and_variance(x: Array, weights: Array) -> tuple[Array, Array]:
    """Two scalars; the variance is biased (divided by n).  Both are 0 where nothing counts."""
    total, count = mean_of(x, weights)
    count = jnp.maximum(count, 1.0)
    mean = total / count
    return mean, mean_of(jnp.square(x - mean), weights).total / count


def whiten(x: Array, weights: Array, keep_mean: bool = False) -> Array:
    """(x − mean)/sqrt(variance + 1e-8), and the mean added again where it is kept; 0 where the weight is.

    Over all that `x` holds: of per-token numbers [M, b, T] that is every token of a rollout, padding aside.
    """
    mean, variance = mean_and_variance(x, weights)
    white = (x - mean) * jax.lax.rsqrt(variance + 1e-8)
    return jnp.where(weights > 0, white + mean if keep_mean else white, 0.0)
