"""DPO and its kin against hand arithmetic; against TRL, see test_against_trl.py."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.dpo import DpoConfig, build
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from tests.algos.lookup import divided, language_model, objective, packed, pairs_of, table

PAIR = pairs_of(packed([(2, 1)]), [(0, 1, 1.0)])
PARAMS = {"policy": table([-1, -3], [-2]), "ref": table([-2, -3], [-1])}
DELTA = (-4 - -5) - (-2 - -1)  # = 2
START = {"dpo": math.log(2), "cdpo": math.log(2), "ipo": 1 / (4 * 0.3**2), "ipo_mean": 1 / (4 * 0.3**2), "hinge": 1.0}


def algo_of(**options: Any) -> Any:
    return build(DpoConfig(**options), {"policy": language_model(), "ref": language_model()})


def nls(x: float) -> float:
    return math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, nls(0.1 * DELTA)),
        ({"beta": 0.5}, nls(0.5 * DELTA)),
        ({"loss": "cdpo"}, 0.9 * nls(0.1 * DELTA) + 0.1 * nls(-0.1 * DELTA)),
        ({"loss": "cdpo", "label_smoothing": 0.3}, 0.7 * nls(0.1 * DELTA) + 0.3 * nls(-0.1 * DELTA)),
        ({"loss": "ipo", "beta": 0.5}, (DELTA - 1) ** 2),
        ({"loss": "ipo_mean", "beta": 0.5}, (1 / 2 + 1 - 1) ** 2),
        ({"loss": "hinge"}, 1 - 0.1 * DELTA),
        ({"loss": "hinge", "beta": 0.6}, 0.0),
        ({"nll_weight": 0.5}, nls(0.1 * DELTA) + 0.5 * 4 / 2),
    ],
    ids=str,
)
def test_by_hand(options: dict, expected: float) -> None:
    assert float(objective(algo_of(**options))(PARAMS, PAIR)) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_metrics() -> None:
    algo = algo_of(reference="cached", beta=0.5)
    batch = PAIR.replace(answers=PAIR.answers.replace(ref_BA=jnp.asarray([[-5.0, -1.0]])))  # type: ignore[attr-defined]
    _, metrics = algo.loss(PARAMS, batch)
    assert divided(metrics) == pytest.approx(
        {
            "rewards/chosen": 0.5,
            "rewards/rejected": -0.5,
            "rewards/margins": 1.0,
            "rewards/accuracies": 1.0,
            "logps/chosen": -4.0,
            "logps/rejected": -2.0,
        }
    )


def test_a_cached_reference_needs_no_model() -> None:
    config = DpoConfig(reference="cached")
    algo = build(config, {"policy": language_model()})
    assert (config.frozen, algo.frozen, algo.prepare) == ({}, {}, None)
    batch = PAIR.replace(answers=PAIR.answers.replace(ref_BA=jnp.asarray([[-5.0, -1.0]])))  # type: ignore[attr-defined]
    assert float(objective(algo)(PARAMS, batch)) == pytest.approx(nls(0.1 * DELTA))


def test_a_ranking_counts_as_one_prompt() -> None:
    """K answers: the mean over their pairs, and the prompt weighs what a pair weighs."""
    batch = pairs_of(packed([(1, 1, 1), (1, 1)]), [(0, 1, 1 / 3), (0, 2, 1 / 3), (1, 2, 1 / 3), (3, 4, 1.0)])
    params = {"policy": table([-1], [-2], [-4], [-8], [-1]), "ref": table([0], [0], [0], [0], [0])}
    expected = ((nls(1) + nls(3) + nls(2)) / 3 + nls(-7)) / 2
    assert float(objective(algo_of(beta=1.0))(params, batch)) == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_answers_of_the_policy_alone() -> None:
    grads = jax.grad(objective(algo_of(nll_weight=0.5)))(PARAMS, PAIR)
    assert not grads["ref"].any()
    np.testing.assert_array_equal(grads["policy"] != 0, [False, True, True, True])


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(vocab_size=32, d_model=16, d_ff=16, n_layers=1, n_heads=2, n_kv_heads=2)
    return build_model(config, ComputeConfig(loss_chunks=1), make_mesh(MeshConfig(), jax.devices()[:1]))


@pytest.mark.parametrize("name", START)
def test_the_first_loss_of_a_real_model(model: Any, name: Any) -> None:
    """While the policy is its own reference; the reference's pass is another than the policy's."""
    algo = build(DpoConfig(loss=name, beta=0.3), {"policy": model, "ref": model})
    weights = model.init(jax.random.key(0))
    batch = pairs_of(packed([(4, 2), (3, 5)]), [(0, 1, 1.0), (2, 3, 1.0)])
    loss = jax.jit(objective(algo))({"policy": weights, "ref": weights}, batch)
    assert float(loss) == pytest.approx(START[name], abs=1e-6)


def test_smoothing_without_cdpo_is_refused() -> None:
    with pytest.raises(ValueError, match="loss=cdpo"):
        DpoConfig(label_smoothing=0.1)
