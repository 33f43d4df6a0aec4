"""From logits to a token."""

import jax
import jax.numpy as jnp
from jax import Array

NEVER = -1e30  # a logit whose token is never drawn; finite, so that 0 x NEVER is no NaN


def filter_top_k(logits_BV: Array, k: int) -> Array:
    """Only the k most likely tokens stay."""
    kth_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    return jnp.where(logits_BV >= kth_B1, logits_BV, NEVER)


def filter_top_p(logits_BV: Array, p: float) -> Array:
    """The fewest most likely tokens that hold probability p stay (nucleus, arXiv 1904.09751); always at least one."""
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV  # probability of all likelier tokens
    lowest_B1 = jnp.min(jnp.where(before_BV < p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV >= lowest_B1, logits_BV, NEVER)


def draw(keys_B: Array, logits_BV: Array, temperature: float, top_k: int | None, top_p: float | None) -> Array:
    """One token a row, int32 [B]; a key for each row.  Temperature 0 takes the most likely."""
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / temperature
    if top_k is not None:
        logits_BV = filter_top_k(logits_BV, min(top_k, logits_BV.shape[-1]))
    if top_p is not None:
        logits_BV = filter_top_p(logits_BV, top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
