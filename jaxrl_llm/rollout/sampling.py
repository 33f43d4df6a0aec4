"""From logits to a token, and its log-probability."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrl_llm.schema import schema

COLD = 1e-5  # temperatures below this are 0: logits divided by them could overflow
NEVER = -1e30  # a logit whose token is never drawn; finite, so that 0 x NEVER is no NaN


@schema
class SamplingConfig:
    """The distribution that tokens are drawn from.  Training uses temperature alone, or its ratios would be wrong."""

    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = Field(default=None, ge=1)
    """Only the k most likely tokens."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Only the fewest most likely tokens that hold this probability (nucleus, arXiv 1904.09751)."""
    min_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Only tokens at least this share as likely as the most likely one (arXiv 2407.01082)."""
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    """Logits of tokens seen before are divided by this where positive, multiplied where negative (arXiv 1909.05858)."""


class Drawn(NamedTuple):
    """Tokens and what they cost, a row each."""

    tokens_B: Array  # int32
    logp_B: Array  # float32 nats, under the distribution that the token was drawn from
    plain_B: Array  # float32 nats, under softmax(logits): temperature 1, nothing filtered


def draw(config: SamplingConfig, keys_B: Array, logits_BV: Array, seen_BV: Array | None = None) -> Drawn:
    """One token a row from float32 logits, with a key for each row; `seen_BV` marks tokens for the penalty."""
    plain_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    if seen_BV is not None:
        logits_BV = penalise(logits_BV, seen_BV, config.repetition_penalty)
    if config.temperature < COLD:
        tokens_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return Drawn(tokens_B, jnp.zeros(tokens_B.shape, jnp.float32), _pick(plain_BV, tokens_B))
    logits_BV = filtered(config, logits_BV / config.temperature)
    tokens_B = jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
    return Drawn(tokens_B, _pick(jax.nn.log_softmax(logits_BV, axis=-1), tokens_B), _pick(plain_BV, tokens_B))


def filtered(config: SamplingConfig, logits_BV: Array) -> Array:
    """The logits with NEVER where a filter forbids the token; filters in the order top-k, top-p, min-p."""
    if config.top_k is not None:
        kth_B1 = jax.lax.top_k(logits_BV, min(config.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth_B1, logits_BV, NEVER)
    if config.top_p is not None:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        p_BV = jax.nn.softmax(sorted_BV, axis=-1)
        likelier_BV = jnp.cumsum(p_BV, axis=-1) - p_BV  # probability of all tokens before this one: 0 for the first
        lowest_B1 = jnp.min(jnp.where(likelier_BV < config.top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= lowest_B1, logits_BV, NEVER)
    if config.min_p is not None:
        floor_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(config.min_p)
        logits_BV = jnp.where(logits_BV >= floor_B1, logits_BV, NEVER)
    return logits_BV


def penalise(logits_BV: Array, seen_BV: Array, penalty: float) -> Array:
    """Tokens that stand in the prompt or the answer become less likely."""
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def _pick(values_BV: Array, tokens_B: Array) -> Array:
    return jnp.take_along_axis(values_BV, tokens_B[:, None], axis=-1)[:, 0]
