"""Models that look their output up by token id, so that losses can be given any log-probabilities or scores.

The gradient with respect to such a model's params is that with respect to what it said of each token.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.types import Algo, Answers, Mean, Pairs, Tokens, TokenScores

PROMPT = 2  # tokens of every prompt; all have id 0, and so has padding
Pair = tuple[int, int, float]  # better slot, worse slot, weight


def language_model() -> Any:
    """token_scores(params [V], tokens): the log-probability of a target is params[target]."""

    def token_scores(params: Any, tokens: Tokens) -> TokenScores:
        logp_BT = params[tokens.targets_BT]
        return TokenScores(logp_BT=logp_BT, entropy_BT=logp_BT, logz_BT=logp_BT)

    return SimpleNamespace(token_scores=token_scores)


def reward_model() -> Any:
    """values(params: name -> [V], tokens): what is read at a token is params[name][token]."""
    return SimpleNamespace(
        values=lambda params, tokens: {name: table[tokens.inputs_BT] for name, table in params.items()}
    )


def packed(groups: Sequence[Sequence[int]], first_id: int = 1) -> Answers:
    """A row for each group of answers, given by their numbers of tokens.  Tokens have ids of their own, in order."""
    shape = len(groups), 1 + max(PROMPT + sum(group) for group in groups)
    ids, segments, parents = (np.zeros(shape, np.int32) for _ in range(3))
    slots = np.zeros((2, len(groups), max(map(len, groups))), np.int32)
    next_id = first_id
    for b, group in enumerate(groups):
        at = PROMPT
        segments[b, :at] = 1 if group else 0
        for a, n in enumerate(group):
            ids[b, at : at + n] = np.arange(next_id, next_id + n)
            segments[b, at : at + n], parents[b, at : at + n] = a + 2, 1
            at, next_id = at + n, next_id + n
            slots[:, b, a] = a + 2, at - 1
    weights = (segments > 1).astype(np.float32)
    tokens = Tokens(*map(jnp.asarray, (ids, ids, weights, segments, np.zeros_like(ids), parents)))
    return Answers(tokens, jnp.asarray(slots[0]), jnp.asarray(slots[1]))


def table(*answers: Sequence[float]) -> jax.Array:
    """Params that give the answers' tokens these numbers, and 7 to all that nobody should read."""
    return jnp.asarray([7.0, *(x for answer in answers for x in answer)], jnp.float32)


def pairs_of(
    answers: Answers, pairs: Sequence[Pair], margins: Sequence[float] = (), ratings: Sequence[int] = ()
) -> Pairs:
    """These pairs, and one empty place."""
    n = len(pairs)
    better, worse, weights = (np.asarray(column) for column in zip(*pairs, (0, 0, 0.0), strict=True))
    return Pairs(
        answers=answers,
        better_P=jnp.asarray(better, jnp.int32),
        worse_P=jnp.asarray(worse, jnp.int32),
        weight_P=jnp.asarray(weights, jnp.float32),
        margin_P=jnp.asarray([*(margins or [0.0] * n), 0.0], jnp.float32),
        rating_P=jnp.asarray([*(ratings or [-1] * n), -1], jnp.int32),
    )


def objective(algo: Algo, prepared: bool = False) -> Callable[[Any, Any], jax.Array]:
    """fn(params by role, batch of one micro-batch) -> the loss as the step divides it, `prepare` applied before."""

    def value(params: Any, batch: Any) -> jax.Array:
        if algo.prepare is not None and not prepared:
            batch = jax.tree.map(lambda x: x[0], algo.prepare(params, jax.tree.map(lambda x: x[None], batch)))
        terms, _ = algo.loss(params, batch)
        assert terms.keys() == algo.weights.keys()
        return sum((algo.weights[k] * mean.total / mean.count for k, mean in terms.items()), start=jnp.zeros(()))

    return value


def divided(metrics: dict[str, Mean]) -> dict[str, float]:
    return {name: float(mean.total / mean.count) for name, mean in metrics.items()}
