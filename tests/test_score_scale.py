"""Bias and deviation of a reward model, against the scores of the reference answers one by one."""

import pytest

from jaxrl_llm.saved import open_model
from tests.tiny import Runs, answer_scores

PROMPTS = 16  # eval.scale_prompts of the tiny runs


@pytest.mark.parametrize("name", ["reward", "ranked", "pointwise"])
def test_it_is_of_the_best_answers_to_the_first_prompts(runs: Runs, name: str) -> None:
    opened, store = open_model(runs(name), head="scalar"), runs.opened(name).data.stores["data"]
    scores = answer_scores(opened.model, opened.params, store)[: store.answer_starts[PROMPTS]]
    good = store.label[:PROMPTS] == 1 if name == "pointwise" else store.ranks[: len(scores)] == 0
    assert good.sum() >= PROMPTS // 2
    scale = opened.card.score
    assert scale is not None
    assert scale.mean == pytest.approx(scores[good].mean(), abs=1e-5)
    assert scale.std == pytest.approx(scores[good].std(), abs=1e-5)
    assert scale.bias == -scale.mean


def test_a_policy_has_none(runs: Runs) -> None:
    assert open_model(runs("dpo")).card.score is None
