"""Comparing answers by a list of pairs."""

import jax.numpy as jnp
import pytest

from jaxrl_llm.core.pairs import nll_of_better, of_pairs, preference_metrics, right
from tests.algos.lookup import divided, packed, pairs_of

# A pair, and a ranking 2 > 3 > 4 as three pairs.
PAIRS = pairs_of(packed([(1, 1), (1, 1, 1)]), [(1, 0, 1.0), (3, 4, 1 / 3), (3, 5, 1 / 3), (4, 5, 1 / 3)])
X_N = jnp.asarray([1.0, 3.0, 100.0, 8.0, 8.0, 5.0])  # the third slot is empty


def test_right_gives_half_for_a_tie() -> None:
    assert right(jnp.asarray([2.0, 0.0, -0.1])).tolist() == [1.0, 0.5, 0.0]


def test_of_pairs() -> None:
    better, worse = of_pairs(X_N, PAIRS)
    assert better.tolist()[:4] == [3, 8, 8, 8]
    assert worse.tolist()[:4] == [1, 8, 5, 5]


def test_metrics_are_means_over_prompts() -> None:
    found = divided(preference_metrics(X_N, -X_N, PAIRS))
    assert found == pytest.approx(
        {
            "rewards/chosen": (3 + 8) / 2,
            "rewards/rejected": (1 + 6) / 2,
            "rewards/margins": (2 + 2) / 2,
            "rewards/accuracies": (1 + 2.5 / 3) / 2,
            "logps/chosen": -(3 + 8) / 2,
            "logps/rejected": -(1 + 6) / 2,
        }
    )


def test_nll_of_better_is_by_token() -> None:
    tokens_N = jnp.asarray([1.0, 2.0, 0.0, 4.0, 5.0, 6.0])
    total, count = nll_of_better(X_N, tokens_N, PAIRS)
    assert float(total) == pytest.approx(-(3 + (8 + 8 + 8) / 3))
    assert float(count) == pytest.approx(2 + (4 + 4 + 5) / 3)
