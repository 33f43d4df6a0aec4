"""Bias and deviation of a reward model, against the scores of the reference answers one by one."""

import numpy as np
import pytest

from jaxrl_llm.saved import open_model
from tests.tiny import Runs, answer_scores

PROMPTS = 16  # eval.scale_prompts of the tiny runs


@pytest.mark.parametrize("name", ["reward", "ranked", "pointwise"])
def test_it_is_of_the_best_answers_to_the_first_prompts(runs: Runs, name: str) -> None:
    opened, store = open_model(runs(name), head="scalar"), runs.opened(name).data.stores["data"]
    scores = answer_scores(opened.model, opened.params, store)
    if name == "pointwise":  # an answer each: the first that are wanted, wherever they stand
        good = np.flatnonzero(store.label == 1)[:PROMPTS]
    else:
        good = np.flatnonzero(store.ranks[: store.answer_starts[PROMPTS]] == 0)
    assert len(good) >= PROMPTS // 2
    scale = opened.card.score
    assert scale is not None
    assert scale.mean == pytest.approx(scores[good].mean(), abs=1e-5)
    assert scale.std == pytest.approx(scores[good].std(), abs=1e-5)
    assert scale.bias == -scale.mean


def test_a_policy_has_none(runs: Runs) -> None:
    assert open_model(runs("dpo")).card.score is None
