"""KTO against hand arithmetic."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.kto import KtoConfig, build
from jaxrl_llm.types import Labelled
from tests.algos.lookup import divided, language_model, objective, packed, table

# Two answers to a prompt, the first wanted, and one unwanted; two answers to other prompts.
BATCH = Labelled(packed([(2, 1), (1,)]), jnp.asarray([[1, 0], [0, -1]]), packed([(1, 1), ()], first_id=5))
POLICY, REF = table([-1, -2], [-3], [-1], [-2], [-4]), table([-2, -2], [-1], [-3], [-4], [-3])
H = [1.0, -2.0, 2.0]
Z0 = (2 - 1) / 2
PARAMS = {"policy": POLICY, "ref": REF}


def algo_of(**options: Any) -> Any:
    return build(KtoConfig(**options), {"policy": language_model(), "ref": language_model()})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def prepared(algo: Any, params: Any, batches: list[Labelled]) -> Labelled:
    return algo.prepare(params, jax.tree.map(lambda *x: jnp.stack(x), *batches))


def by_hand(beta: float, wanted: float, unwanted: float, z0: float) -> float:
    losses = [wanted * (1 - sigmoid(beta * (H[0] - z0)))]
    losses += [unwanted * (1 - sigmoid(beta * (z0 - h))) for h in H[1:]]
    return sum(losses) / 3


@pytest.mark.parametrize(
    ("beta", "wanted", "unwanted"), [(0.1, 1.0, 1.0), (0.5, 1.0, 1.0), (0.5, 2.0, 1.0), (0.5, 1, 3)]
)
def test_by_hand(beta: float, wanted: float, unwanted: float) -> None:
    algo = algo_of(beta=beta, desirable_weight=float(wanted), undesirable_weight=float(unwanted))
    found = objective(algo)(PARAMS, BATCH)
    assert float(found) == pytest.approx(by_hand(beta, wanted, unwanted, Z0), rel=1e-6)


def test_the_reference_point_is_that_of_the_whole_batch_and_at_least_0() -> None:
    less = {"policy": POLICY, "ref": REF.at[5].set(-1.0)}  # log-ratios −1 and −1: no reference point below 0
    assert prepared(algo_of(), PARAMS, [BATCH]).z0.tolist() == [Z0]  # type: ignore[union-attr]
    assert prepared(algo_of(), less, [BATCH]).z0.tolist() == [0.0]  # type: ignore[union-attr]
    one = BATCH.mismatched.replace(segment_BA=jnp.asarray([[2, 0], [0, 0]]))  # type: ignore[union-attr]
    both = prepared(algo_of(), PARAMS, [BATCH, BATCH.replace(mismatched=one)])  # type: ignore[attr-defined]
    assert both.z0.tolist() == [pytest.approx((2 - 1 + 2) / 3)] * 2  # type: ignore[union-attr]
    assert both.mismatched is None


def test_no_gradient_goes_through_the_reference_point() -> None:
    grads = jax.grad(objective(algo_of()))(PARAMS, BATCH)
    assert not grads["ref"].any()
    np.testing.assert_array_equal(grads["policy"] != 0, [False, True, True, True, True, False, False])


def test_a_cached_reference_needs_no_model() -> None:
    config = KtoConfig(reference="cached", beta=0.5)
    algo = build(config, {"policy": language_model()})
    assert config.frozen == algo.frozen == {}
    answers = BATCH.answers.replace(ref_BA=jnp.asarray([[-4.0, -1.0], [-3.0, 0.0]]))  # type: ignore[attr-defined]
    mismatched = BATCH.mismatched.replace(ref_BA=jnp.asarray([[-4.0, -3.0], [0.0, 0.0]]))  # type: ignore[union-attr]
    batch = BATCH.replace(answers=answers, mismatched=mismatched)  # type: ignore[attr-defined]
    found = objective(algo)({"policy": POLICY}, batch)
    assert float(found) == pytest.approx(by_hand(0.5, 1, 1, Z0), rel=1e-6)


def test_metrics() -> None:
    algo = algo_of(beta=0.5)
    batch = jax.tree.map(lambda x: x[0], prepared(algo, PARAMS, [BATCH]))
    assert divided(algo.loss(PARAMS, batch)[1]) == pytest.approx(
        {
            "rewards/chosen": 0.5,
            "rewards/rejected": 0.0,
            "rewards/accuracies": 2 / 3,  # the third is unwanted, and above the reference point
            "logps/chosen": -3.0,
            "logps/rejected": -2.0,
            "kl": Z0,
        }
    )
