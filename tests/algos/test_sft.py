"""Fine-tuning's loss against hand arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.sft import SftConfig, build
from jaxrl_llm.types import Tokens
from tests.algos.lookup import divided, language_model, objective

ALGO = build(SftConfig(), {"policy": language_model()})
PARAMS = {"policy": jnp.asarray([-1.0, -2.0, -4.0, -8.0])}
IDS = jnp.asarray([[0, 1, 2, 3, 3]])


def batch(weights: list[float], segments: list[int] | None) -> Tokens:
    return Tokens(IDS, IDS, jnp.asarray([weights]), jnp.asarray([segments]) if segments else None, IDS)


def test_mean_over_the_assistants_tokens() -> None:
    rows = batch([0.0, 1.0, 0.5, 0.0, 0.0], [1, 1, 1, 1, 0])
    loss, grads = jax.value_and_grad(objective(ALGO))(PARAMS, rows)
    assert float(loss) == pytest.approx((2 + 0.5 * 4) / 1.5)
    np.testing.assert_allclose(grads["policy"], [0, -1 / 1.5, -0.5 / 1.5, 0])


@pytest.mark.parametrize(("segments", "real"), [([1, 1, 1, 1, 0], 4), ([1, 1, 2, 0, 0], 3), (None, 5)])
def test_trained_fraction_is_of_real_tokens(segments: Any, real: int) -> None:
    _, metrics = ALGO.loss(PARAMS, batch([0.0, 1.0, 0.5, 0.0, 0.0], segments))
    assert divided(metrics)["trained_fraction"] == pytest.approx(2 / real)
