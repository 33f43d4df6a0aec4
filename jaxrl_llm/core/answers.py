"""Reading packed answers: one number each, from numbers at their tokens.  N = B·A counts all slots, full or empty."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl_llm.types import Answers, Params, TokenScores


def sum_over_answers(x_BT: Array, answers: Answers) -> Array:
    """[N]: the sum of `x` over the weighted tokens of every answer; 0 in empty slots."""
    segments_BT = answers.tokens.segments_BT
    assert segments_BT is not None, "answers are told apart by their segments"
    member_BTA = segments_BT[:, :, None] == answers.segment_BA[:, None, :]
    x_BT = jnp.where(answers.tokens.weights_BT > 0, x_BT * answers.tokens.weights_BT, 0.0)
    return jnp.einsum("bt,bta->ba", x_BT, member_BTA.astype(x_BT.dtype), precision="highest").reshape(-1)


def tokens_of_answers(answers: Answers) -> Array:
    """[N]: how many tokens of every answer count, float32; 0 in empty slots."""
    return sum_over_answers(jnp.ones_like(answers.tokens.weights_BT), answers)


def per_token(x_N: Array, answers: Answers) -> Array:
    """[N]: sums over answers, divided by how many tokens they are sums of; 0 in empty slots."""
    tokens_N = tokens_of_answers(answers)
    return x_N / jnp.where(tokens_N > 0, tokens_N, 1.0)


def at_last_token(x_BT: Array, answers: Answers) -> Array:
    """[N]: the value of `x` at the last token of every answer; what is in empty slots means nothing."""
    return jnp.take_along_axis(x_BT, answers.end_BA, axis=1).reshape(-1)


def is_answer(answers: Answers) -> Array:
    """[N]: whether the slot holds an answer."""
    return answers.segment_BA.reshape(-1) > 0


def log_probs(token_scores: Callable[..., TokenScores], params: Params, answers: Answers) -> Array:
    """[N]: the log-probability of every answer given its prompt, nats; 0 in empty slots."""
    return sum_over_answers(token_scores(params, answers.tokens).logp_BT, answers)


def frozen_log_probs(token_scores: Callable[..., TokenScores], params: Params, answers: Answers) -> Array:
    """[M, B, A]: log-probabilities to measure others against, one micro-batch after the other.

    No gradient flows into them, and no dropout makes them noisy.
    """
    params = jax.lax.stop_gradient(params)
    answers = replace(answers, tokens=replace(answers.tokens, seeds_B=None))

    def one(rows: Answers) -> Array:
        return log_probs(token_scores, params, rows).reshape(rows.segment_BA.shape)

    return jax.lax.map(one, answers)
