"""Rollouts with ids that are numbers of places, so that tables give each token any log-probability and any value.

Places that hold no token of an answer have id 0, of which the tables say 7: a number that nobody should read.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.types import Algo, Rollouts, Tokens, TokenScores

# Answers that end early, fill their row, stand at its left, have a hole, are one token; a row without an answer.
WEIGHTS = np.asarray(
    [
        [0, 0, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)
IS_TOKEN = WEIGHTS > 0
N_TOKENS = int(WEIGHTS.sum())
GROUP = [3, 8, 3, 8, 8, 3]
SCORE = np.asarray([0.7, -1.2, 0.25, 2.0, 0.1, 99.0], np.float32)
ENDED = np.asarray([1, 0, 1, 1, 0, 1], np.float32)
KL_COEF = np.float32(0.3)


def language_model() -> Any:
    """token_scores(params [V], tokens, temperature): log p is params[target]/temperature, the entropy twice −log p."""

    def token_scores(params: Any, tokens: Tokens, temperature: float = 1.0) -> TokenScores:
        logp_BT = params[tokens.targets_BT] / temperature
        return TokenScores(logp_BT=logp_BT, entropy_BT=-2 * logp_BT, logz_BT=logp_BT)

    return SimpleNamespace(token_scores=token_scores)


def critic() -> Any:
    """values(params [V], tokens): what is read at a token is params[token]."""
    return SimpleNamespace(values=lambda params, tokens: {"score": params[tokens.inputs_BT]})


MODELS = {"policy": language_model(), "ref": language_model(), "value": critic()}


def table(seed: int, mean: float, spread: float) -> jax.Array:
    """Params that give all tokens some number, and 7 to all that nobody should read."""
    return jnp.asarray(mean + spread * np.random.default_rng(seed).normal(size=N_TOKENS + 1), jnp.float32).at[0].set(7)


OLD = {"policy": table(1, -2.0, 0.5), "ref": table(2, -2.0, 0.5), "value": table(3, 0.0, 1.0)}
# After some updates: half the ratios are outside of 1 ± 0.2, one far outside; so are values of old ones ± 0.2.
NEW = OLD | {
    "policy": (OLD["policy"] + 0.3 * table(4, 0.0, 1.0).at[0].set(0)).at[6].add(1.5).at[7].add(-1.5),
    "value": OLD["value"] + 0.3 * table(5, 0.0, 1.0).at[0].set(0),
}


def rollout() -> Rollouts:
    """One micro-batch [M, b, ...] of the rows above."""
    ids = np.where(IS_TOKEN, np.cumsum(IS_TOKEN).reshape(WEIGHTS.shape), 0).astype(np.int32)
    tokens = Tokens(ids, ids, WEIGHTS, None, np.broadcast_to(np.arange(6, dtype=np.int32), ids.shape))
    sampler_logp = np.where(IS_TOKEN, by_place(OLD["policy"]) + 0.125, 7).astype(np.float32)
    batch = Rollouts(tokens, SCORE, np.asarray(GROUP, np.int32), ENDED, sampler_logp, np.full(6, KL_COEF))
    text = np.asarray([[1, 2, 0], [3, 0, 0]], np.int32)
    pretrain = Tokens(text, text, (text > 0).astype(np.float32), None, text)
    batch = batch.replace(pretrain=pretrain, penalty_coef_B=np.full(6, 0.4, np.float32))  # type: ignore[attr-defined]
    return jax.tree.map(lambda x: jnp.asarray(x)[None], batch)


def by_place(params: jax.Array) -> np.ndarray:
    """[B, T]: a table's numbers where they are read, 0 elsewhere."""
    found = np.zeros(WEIGHTS.shape)
    found[IS_TOKEN] = np.asarray(params)[1:]
    return found


def answers(x_BT: np.ndarray) -> list[np.ndarray]:
    """The numbers of each answer's tokens, without those of the row that has none."""
    return [row[mask] for row, mask in zip(x_BT, IS_TOKEN, strict=True)][:-1]


def flat(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(rows))


def prepared(algo: Algo, batch: Rollouts | None = None, params: Any = OLD) -> Rollouts:
    """The rollout of one micro-batch, as `prepare` leaves it."""
    assert algo.prepare is not None
    return jax.tree.map(lambda x: x[0], jax.jit(algo.prepare)(params, rollout() if batch is None else batch))


def objective(algo: Algo, params: Any, batch: Rollouts) -> jax.Array:
    """The loss as the step divides it."""
    terms, _ = algo.loss(params, batch)
    assert terms.keys() == algo.weights.keys()
    return sum((algo.weights[k] * mean.total / mean.count for k, mean in terms.items()), start=jnp.zeros(()))
