"""What stands for the policy's objective when the answers were written by an earlier policy."""

import jax.numpy as jnp
from jax import Array

from jaxrl_llm.core.means import mean_of
from jaxrl_llm.types import Mean


def log_ratio(logp: Array, old_logp: Array, limit: float) -> Array:
    """log π − log π_old, clamped to ±`limit` nats: one token gone wild must not make the loss infinite."""
    return jnp.clip(logp - old_logp, -limit, limit)


def clipped(ratio: Array, advantage: Array, epsilon: float, dual_clip: float | None = None) -> Array:
    """max(−A·ratio, −A·clip(ratio, 1 − ε, 1 + ε)): nothing is gained by leaving the interval (arXiv 1707.06347, eq. 7).

    With `dual_clip` c > 1 at most −c·A where A < 0: a token that became likely though it was bad cannot outweigh all
    others (arXiv 1912.09729, eq. 5).
    """
    loss = jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - epsilon, 1 + epsilon))
    if dual_clip is None:
        return loss
    return jnp.where(advantage < 0, jnp.minimum(loss, -dual_clip * advantage), loss)


def is_clipped(ratio: Array, advantage: Array, epsilon: float) -> Array:
    """1 where the ratio left the interval on the side that the advantage drives it to, else 0."""
    outside = jnp.where(advantage > 0, ratio > 1 + epsilon, ratio < 1 - epsilon)
    return (outside & (advantage != 0)).astype(jnp.float32)


def k3_of_ratio(log_ratio: Array) -> Array:
    """ratio − 1 − log ratio of tokens that π_old drew: an estimate of KL(π_old ‖ π), nats a token, never below 0."""
    return jnp.expm1(log_ratio) - log_ratio


def distance_metrics(log_ratio: Array, weights: Array) -> dict[str, Mean]:
    """How far the policy has come since the answers were written.

    `approx_kl` is mean(log π_old − log π), `approx_kl_k3` mean(ratio − 1 − log ratio): two estimates of KL(π_old ‖ π),
    nats a token (an answer, where ratios are those of answers).  Both are 0 on the first mini-batch of a rollout.
    """
    ratio = jnp.exp(log_ratio)
    return {
        "ratio": mean_of(ratio, weights),
        "approx_kl": mean_of(-log_ratio, weights),
        "approx_kl_k3": mean_of(k3_of_ratio(log_ratio), weights),
    }
