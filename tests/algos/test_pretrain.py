"""The pretraining loss against hand arithmetic."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from jaxrl_llm.algos.pretrain import PretrainConfig, build
from jaxrl_llm.types import Tokens, TokenScores

LOGP = jnp.asarray([[-1.0, -2.0, -8.0]])
LOGZ = jnp.asarray([[0.5, 1.0, 9.0]])
WEIGHTS = jnp.asarray([[1.0, 0.5, 0.0]])  # the last target is not trained


def objective(config: PretrainConfig) -> float:
    scores = TokenScores(logp_BT=LOGP, entropy_BT=LOGP, logz_BT=LOGZ)
    algo = build(config, {"policy": SimpleNamespace(token_scores=lambda params, batch: scores)})  # type: ignore[dict-item]
    ids = jnp.zeros((1, 3), jnp.int32)
    terms, _ = algo.loss({"policy": {}}, Tokens(ids, ids, WEIGHTS, ids, ids))
    return float(sum(algo.weights[name] * mean.total / mean.count for name, mean in terms.items()))


def test_mean_over_weighted_targets() -> None:
    assert objective(PretrainConfig()) == pytest.approx((1 * 1 + 0.5 * 2) / 1.5)


def test_z_loss_adds_the_mean_square_of_log_z() -> None:
    z = (0.5**2 + 0.5 * 1.0**2) / 1.5
    assert objective(PretrainConfig(z_loss=0.1)) == pytest.approx((1 * 1 + 0.5 * 2) / 1.5 + 0.1 * z)
