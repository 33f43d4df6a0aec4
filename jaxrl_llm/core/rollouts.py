"""Reading rollouts: what `prepare` of every algorithm on them begins and ends with, over all rows [M, b, ...]."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl_llm.core.kl import k1, k3
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.whitening import mean_and_variance
from jaxrl_llm.types import Mean, Rollouts, Tokens

ByToken = Callable[[Tokens], Array]  # one number for each token [b, T]


def sum_over_answer(x_BT: Array, weights_BT: Array) -> Array:
    """[...]: the sum of `x` over the tokens of the answer, one answer a row."""
    return jnp.sum(jnp.where(weights_BT > 0, x_BT * weights_BT, 0.0), axis=-1)


def mean_over_answer(x_BT: Array, weights_BT: Array) -> Array:
    """[...]: the mean of `x` over the tokens of the answer; 0 where there are none."""
    return sum_over_answer(x_BT, weights_BT) / jnp.maximum(jnp.sum(weights_BT, axis=-1), 1.0)


def has_answer(weights_BT: Array) -> Array:
    """[...] float32: 1 where the row holds an answer, 0 where it is padding."""
    return jnp.any(weights_BT > 0, axis=-1).astype(jnp.float32)


def read(model: ByToken, tokens: Tokens) -> Array:
    """[M, b, T]: what a model says at the tokens of the answers, 0 elsewhere; one micro-batch after the other.

    No gradient flows into it, and no dropout makes it noisy.
    """

    def one(rows: Tokens) -> Array:
        return jnp.where(rows.weights_BT > 0, model(rows), 0.0)

    return jax.lax.stop_gradient(jax.lax.map(one, replace(tokens, seeds_B=None)))


def with_log_probs(batch: Rollouts, policy: ByToken | None, ref: ByToken | None) -> Rollouts:
    """The rollout with log π_old and log π_ref.

    Without `policy`, log π_old is what the sampler said: a pass is saved, but the sampler rounds otherwise than the
    trainer, so that ratios do not begin at exactly 1.  Without `ref` there is no reference.
    """
    sampler_logp = jnp.where(batch.tokens.weights_BT > 0, batch.sampler_logp_BT, 0.0)
    return replace(
        batch,
        logp_BT=sampler_logp if policy is None else read(policy, batch.tokens),
        ref_logp_BT=None if ref is None else read(ref, batch.tokens),
    )


def k1_of(batch: Rollouts) -> Array:
    """[M, b, T]: log π_old − log π_ref, nats."""
    assert batch.logp_BT is not None, "with_log_probs fills it"
    assert batch.ref_logp_BT is not None, "with_log_probs fills it"
    return k1(batch.logp_BT, batch.ref_logp_BT)


def score_less_kl(batch: Rollouts) -> Array:
    """[M, b]: R − β·Σ_t k1_t, the reward of a whole answer."""
    return batch.score_B - batch.kl_coef_B * sum_over_answer(k1_of(batch), batch.tokens.weights_BT)


def with_advantages(batch: Rollouts, advantage_B: Array) -> Rollouts:
    """The rollout with each answer's advantage at all its tokens, and statistics: an end without a critic."""
    weights_BT = batch.tokens.weights_BT
    advantage_BT = jnp.where(weights_BT > 0, advantage_B[..., None], 0.0)
    batch = replace(batch, advantage_BT=advantage_BT)
    return with_statistics(batch, describe(batch, advantage_BT))


def describe(batch: Rollouts, advantage_BT: Array) -> dict[str, Array]:
    """Scalars: what there is to say of a rollout before anything is learnt from it.

    score, score_std; length: tokens of an answer; ended: the share that ended by itself; kl, kl_k3: the estimates of
    KL(π ‖ π_ref) in nats an answer; sampler_logp_diff: mean |log π_old − the sampler's|, nats a token, so 0 where
    π_old is the sampler's; advantage_mean, advantage_std: over tokens, of advantages that were not whitened yet.
    """
    assert batch.logp_BT is not None, "with_log_probs fills it"
    weights_BT = batch.tokens.weights_BT
    weights_B = has_answer(weights_BT)
    by_answer = {"length": jnp.sum(weights_BT, axis=-1), "ended": batch.ended_B}
    if batch.ref_logp_BT is not None:
        by_answer["kl"] = sum_over_answer(k1_of(batch), weights_BT)
        by_answer["kl_k3"] = sum_over_answer(k3(batch.logp_BT, batch.ref_logp_BT), weights_BT)
    found = {name: mean_and_variance(x_B, weights_B)[0] for name, x_B in by_answer.items()}
    found["sampler_logp_diff"], _ = mean_and_variance(jnp.abs(batch.logp_BT - batch.sampler_logp_BT), weights_BT)
    score, score_variance = mean_and_variance(batch.score_B, weights_B)
    advantage, advantage_variance = mean_and_variance(advantage_BT, weights_BT)
    found |= {"score": score, "score_std": jnp.sqrt(score_variance)}
    return found | {"advantage_mean": advantage, "advantage_std": jnp.sqrt(advantage_variance)}


def with_statistics(batch: Rollouts, found: dict[str, Array]) -> Rollouts:
    """The rollout that carries these scalars in every row, through any cut into mini-batches, to `logged`."""
    rows = batch.score_B.shape
    return replace(batch, statistics={name: jnp.broadcast_to(x, rows) for name, x in found.items()})


def logged(batch: Rollouts) -> dict[str, Mean]:
    """The statistics of the rollout that these rows are of, as metrics of a loss."""
    return {name: mean_of(x_B, jnp.ones_like(x_B)) for name, x_B in (batch.statistics or {}).items()}
