"""The losses without a reference against hand arithmetic."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos import orpo, simpo
from jaxrl_llm.types import Algo
from tests.algos.lookup import divided, language_model, objective, packed, pairs_of, table

# Mean log-probabilities −1.5 and −0.5; an empty row, whose places stand empty as well.
PAIR = pairs_of(packed([(2, 4), ()]), [(0, 1, 1.0)])
PARAMS = {"policy": table([-1, -2], [-0.5, -0.25, -0.25, -1])}


def nls(x: float) -> float:
    return math.log1p(math.exp(-x))


def odds(logp: float) -> float:
    return math.log(math.exp(logp) / (1 - math.exp(logp)))


@pytest.mark.parametrize(("beta", "ratio"), [(2.0, 0.5), (2.5, 0.3), (2.0, 0.0)])
def test_simpo(beta: float, ratio: float) -> None:
    algo = simpo.build(simpo.SimpoConfig(beta=beta, gamma_ratio=ratio), {"policy": language_model()})
    assert float(objective(algo)(PARAMS, PAIR)) == pytest.approx(nls(beta * (-1.5 - -0.5) - beta * ratio), rel=1e-6)
    metrics = divided(algo.loss(PARAMS, PAIR)[1])
    assert metrics["rewards/margins"] == pytest.approx(-beta)
    assert metrics["logps/chosen"] == pytest.approx(-1.5)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_orpo(weight: float) -> None:
    algo = orpo.build(orpo.OrpoConfig(odds_weight=weight), {"policy": language_model()})
    expected = 1.5 + weight * nls(odds(-1.5) - odds(-0.5))
    assert float(objective(algo)(PARAMS, PAIR)) == pytest.approx(expected, rel=1e-6)
    assert divided(algo.loss(PARAMS, PAIR)[1])["rewards/chosen"] == pytest.approx(-1.5 * weight)


ALGOS = {
    "simpo": simpo.build(simpo.SimpoConfig(), {"policy": language_model()}),
    "orpo": orpo.build(orpo.OrpoConfig(), {"policy": language_model()}),
}


@pytest.mark.parametrize("algo", ALGOS.values(), ids=ALGOS)
def test_gradients_reach_answers_alone_and_are_finite_beside_empty_slots(algo: Algo) -> None:
    batch = PAIR.replace(better_P=PAIR.better_P.at[1].set(2), worse_P=PAIR.worse_P.at[1].set(3))  # type: ignore[attr-defined]
    grad = jax.grad(objective(algo))(PARAMS, batch)["policy"]
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad != 0, [False] + [True] * 6)


def test_log_odds_hold_from_0_to_1() -> None:
    logp = jnp.asarray([-200.0, -20.0, -1.0, -1e-3, -1e-5])
    p = np.exp(np.asarray(logp, np.float64))
    np.testing.assert_allclose(orpo.log_odds(logp), np.asarray(logp) - np.log1p(-p), rtol=1e-5)
    value, grad = jax.value_and_grad(orpo.log_odds)(0.0)
    assert np.isfinite(value)
    assert np.isfinite(grad)
