"""Reading rollouts."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core.rollouts import (
    describe,
    has_answer,
    logged,
    mean_over_answer,
    read,
    sum_over_answer,
    with_statistics,
)
from jaxrl_llm.types import Tokens
from tests.algos.lookup import divided
from tests.algos.rollouts import IS_TOKEN, SCORE, WEIGHTS, by_place, rollout, table

X = table(9, 1.0, 1.0)
X_BT = np.where(IS_TOKEN, by_place(X), np.nan).astype(np.float32)


def test_sums_and_means_over_answers() -> None:
    sums = np.nansum(X_BT, axis=1)
    np.testing.assert_allclose(sum_over_answer(jnp.asarray(X_BT), jnp.asarray(WEIGHTS)), sums, rtol=1e-6)
    means = sums / np.maximum(WEIGHTS.sum(1), 1)
    np.testing.assert_allclose(mean_over_answer(jnp.asarray(X_BT), jnp.asarray(WEIGHTS)), means, rtol=1e-6)
    assert has_answer(jnp.asarray(WEIGHTS)).tolist() == [1, 1, 1, 1, 1, 0]


def test_models_are_read_without_dropout_or_gradient_and_only_where_answers_are() -> None:
    tokens = rollout().tokens.replace(seeds_B=jnp.zeros((1, 6), jnp.uint32))

    def model(params: jax.Array, rows: Tokens) -> jax.Array:
        assert rows.seeds_B is None
        return params[rows.targets_BT]

    np.testing.assert_allclose(read(lambda rows: model(X, rows), tokens)[0], by_place(X), rtol=1e-6)
    assert not jax.grad(lambda params: read(lambda rows: model(params, rows), tokens).sum())(X).any()


def test_statistics_travel_in_every_row() -> None:
    batch = rollout()
    batch = batch.replace(logp_BT=batch.sampler_logp_BT)  # type: ignore[attr-defined]
    found = describe(batch, jnp.zeros_like(batch.sampler_logp_BT))
    assert "kl" not in found, "there is no reference here"
    np.testing.assert_allclose(found["score_std"], SCORE[:-1].std(), rtol=1e-6)
    carried = with_statistics(batch, found)
    part = jax.tree.map(lambda x: x[0, 2:4], carried)
    metrics = divided(logged(part))
    assert metrics.keys() == found.keys()
    np.testing.assert_allclose(metrics["score_std"], found["score_std"], rtol=1e-6)
    assert logged(batch) == {}
