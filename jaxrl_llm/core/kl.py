"""How far one policy is from another: estimates from tokens that the first one drew, and coefficients that answer them.

KL(p ‖ q) = E log p(x) − log q(x) over x ~ p.  Each estimator has one number for a token (Schulman, Approximating KL
divergence, 2020); what is left of an answer is their sum, in nats.
"""

import jax.numpy as jnp
from jax import Array

LIMIT = 20.0  # nats: beyond it e^x says no more than "very much", and soon infinity


def k1(logp: Array, other_logp: Array) -> Array:
    """log p − log q: unbiased, and of either sign."""
    return logp - other_logp


def k3(logp: Array, other_logp: Array) -> Array:
    """e^−k1 − 1 + k1: unbiased as well, for E q/p = 1; never below 0, and nearly always quieter than k1."""
    minus_k1 = jnp.minimum(other_logp - logp, LIMIT)
    return jnp.expm1(minus_k1) - minus_k1


def proportional_coefficient(coefficient: float, kl: float, target: float, horizon: float, n_answers: int) -> float:
    """β·(1 + clip(KL/target − 1, −.2, .2)·n/horizon) (Ziegler et al., arXiv 1909.08593, section 2.2).

    `kl` in nats an answer, the mean of the `n_answers` of a rollout; `horizon` in answers.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * n_answers / horizon)


def doubling_coefficient(coefficient: float, kl: float, target: float) -> float:
    """Twice β above 1.5 x target, half of it below target/1.5 (Schulman et al., arXiv 1707.06347, section 4).

    `kl` in nats a token, between the policy that wrote and the one that was learnt from it.
    """
    if kl > 1.5 * target:
        return 2.0 * coefficient
    return coefficient / 2.0 if kl < target / 1.5 else coefficient
