"""Weighted means that have not been divided yet."""

import jax.numpy as jnp
from jax import Array

from jaxrl_llm.types import Mean


def mean_of(x: Array, weights: Array) -> Mean:
    """The mean of `x` with weights (or a mask) of the very same shape.  What has weight 0 does not count, NaN included.

    Raises ValueError where the shapes differ: (P,) beside (P, 1) would spread to (P, P) without a word.
    """
    if x.shape != weights.shape:
        raise ValueError(f"values of shape {x.shape} and weights of shape {weights.shape}")
    weights = weights.astype(jnp.float32)
    return Mean(jnp.sum(jnp.where(weights > 0, x * weights, 0.0)), jnp.sum(weights))
