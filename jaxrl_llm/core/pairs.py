"""Comparing answers: from one number each to what is said of a better and a worse one.

A pair's weight is 1 / pairs of its prompt, so all means here are means over prompts, however many answers each has.
"""

import jax.numpy as jnp
from jax import Array

from jaxrl_llm.core.means import mean_of
from jaxrl_llm.types import Mean, Pairs


def of_pairs(x_N: Array, pairs: Pairs) -> tuple[Array, Array]:
    """[P], [P]: the numbers of the better and of the worse answer of every pair."""
    return x_N[pairs.better_P], x_N[pairs.worse_P]


def right(lead: Array) -> Array:
    """1 where the one that should lead does, 1/2 where the two are equal, else 0: guessing earns 1/2."""
    return 0.5 * (1.0 + jnp.sign(lead))


def nll_of_better(logp_N: Array, tokens_N: Array, pairs: Pairs) -> Mean:
    """−log p of the better answers, nats a token; an answer of a ranking counts once for each that it beats."""
    total = -jnp.sum(pairs.weight_P * logp_N[pairs.better_P])
    return Mean(total, jnp.sum(pairs.weight_P * tokens_N[pairs.better_P]))


def preference_metrics(rewards_N: Array, logp_N: Array, pairs: Pairs) -> dict[str, Mean]:
    """What all algorithms on pairs log: implicit rewards, how far and how often they agree, and log-probabilities."""
    chosen_P, rejected_P = of_pairs(rewards_N, pairs)
    logp_chosen_P, logp_rejected_P = of_pairs(logp_N, pairs)
    values = {
        "rewards/chosen": chosen_P,
        "rewards/rejected": rejected_P,
        "rewards/margins": chosen_P - rejected_P,
        "rewards/accuracies": right(chosen_P - rejected_P),
        "logps/chosen": logp_chosen_P,
        "logps/rejected": logp_rejected_P,
    }
    return {name: mean_of(x_P, pairs.weight_P) for name, x_P in values.items()}
