"""One number for every answer of packed rows."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core.answers import (
    at_last_token,
    frozen_log_probs,
    is_answer,
    log_probs,
    per_token,
    sum_over_answers,
    tokens_of_answers,
)
from jaxrl_llm.types import Answers, Tokens
from tests.algos.lookup import language_model, packed, table

ANSWERS = packed([(2, 1), (), (3,)])  # ids 1 2 | 3, nothing, 4 5 6; two slots a row
VALUES = table([1, 2], [4], [8, 16, 32])
X_BT = VALUES[ANSWERS.tokens.inputs_BT]


def test_sums_tokens_and_means() -> None:
    assert sum_over_answers(X_BT, ANSWERS).tolist() == [3, 4, 0, 0, 56, 0]
    assert tokens_of_answers(ANSWERS).tolist() == [2, 1, 0, 0, 3, 0]
    np.testing.assert_allclose(per_token(sum_over_answers(X_BT, ANSWERS), ANSWERS), [1.5, 4, 0, 0, 56 / 3, 0])
    assert is_answer(ANSWERS).tolist() == [True, True, False, False, True, False]


def test_the_last_token() -> None:
    found = at_last_token(X_BT, ANSWERS)
    assert [float(x) for x, there in zip(found, is_answer(ANSWERS), strict=True) if there] == [2, 4, 32]


def test_a_weight_counts_and_none_hides_even_nan() -> None:
    weights_BT = ANSWERS.tokens.weights_BT.at[0, 3].set(0.5).at[2, 2].set(0.0)  # the tokens 2 and 8
    answers = ANSWERS.replace(tokens=ANSWERS.tokens.replace(weights_BT=weights_BT))  # type: ignore[attr-defined]
    x_BT = jnp.where(weights_BT > 0, X_BT, jnp.nan)
    assert sum_over_answers(x_BT, answers).tolist() == [2, 4, 0, 0, 48, 0]
    assert tokens_of_answers(answers).tolist() == [1.5, 1, 0, 0, 2, 0]
    grad = jax.grad(lambda x: sum_over_answers(x, answers).sum())(x_BT)
    np.testing.assert_array_equal(grad, weights_BT)


def test_frozen_log_probs_are_those_of_each_micro_batch_without_dropout_or_gradient() -> None:
    seeded = ANSWERS.replace(tokens=ANSWERS.tokens.replace(seeds_B=jnp.arange(3, dtype=jnp.uint32)))  # type: ignore[attr-defined]
    batch = jax.tree.map(lambda *x: jnp.stack(x), seeded, seeded.replace(segment_BA=seeded.segment_BA[:, ::-1]))
    plain = language_model().token_scores

    def token_scores(params: jax.Array, tokens: Tokens) -> object:
        assert tokens.seeds_B is None
        return plain(params, tokens)

    def summed(params: jax.Array) -> jax.Array:
        return frozen_log_probs(token_scores, params, batch).sum()

    found = frozen_log_probs(token_scores, VALUES, batch)
    assert found.tolist() == [[[3, 4], [0, 0], [56, 0]], [[4, 3], [0, 0], [0, 56]]]
    np.testing.assert_array_equal(found[0].reshape(-1), log_probs(plain, VALUES, ANSWERS))
    assert not jax.grad(summed)(VALUES).any()


def test_slots_of_one_row_are_told_apart_from_those_of_others() -> None:
    """Segment 2 of a row is not segment 2 of another."""
    answers: Answers = packed([(1,), (1,)])
    assert sum_over_answers(table([1], [2])[answers.tokens.inputs_BT], answers).tolist() == [1, 2]
