"""A prompt that is read once with all its answers gives them the scores that they have alone."""

import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import Text, reward_scorer, text_scorer
from jaxrl_llm.evals.shared_prompts import rounded, row_length, shared_scorer, to_groups
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.saved import Opened, open_model
from tests.tiny import Runs


@pytest.fixture(scope="module")
def judge(runs: Runs) -> Opened:
    return open_model(runs("reward"), make_mesh(MeshConfig(data=1, fsdp=8)), head="scalar")


def texts() -> list[Text]:
    """Of prompts with 1 to 9 answers, of all lengths, shuffled, one of them twice."""
    rng, found = np.random.default_rng(0), []
    for n_answers in (9, 1, 4, 2, 7, 3):
        prompt = rng.integers(0, 256, rng.integers(1, 40))
        for _ in range(n_answers):
            ids = np.r_[prompt, rng.integers(0, 256, rng.integers(1, 60))].astype(np.int32)
            found.append(Text(ids, np.arange(len(ids)) >= len(prompt), len(prompt)))
    return [found[i] for i in rng.permutation(len(found))] + found[:1]


def test_scores_are_those_of_each_text_alone(judge: Opened) -> None:
    alone = text_scorer(reward_scorer(judge.model), judge.mesh, 8)(judge.params, texts())
    shared = shared_scorer(judge.model, judge.mesh, 8)
    assert shared(judge.params, texts()) == pytest.approx(alone, abs=1e-5)
    assert shared(judge.params, texts()[:1]) == pytest.approx(alone[:1], abs=1e-5)
    assert len(shared(judge.params, [])) == 0
    assert np.ptp(alone) > 0.01


def test_less_is_read(judge: Opened) -> None:
    groups, number_N = to_groups(texts())
    assert len(groups.prompt_lengths) == 6
    assert (len(groups.answer_lengths), len(number_N)) == (26, 27)  # the one that is there twice is read once
    assert number_N[-1] in number_N[:-1]
    assert row_length(groups) == 256  # a prompt of up to 39 with three answers of up to 59
    assert [rounded(n) for n in (1, 128, 129, 192, 193, 257, 385)] == [128, 128, 192, 192, 256, 384, 512]


def test_broken_weights_are_told(judge: Opened) -> None:
    broken = {**judge.params, "final_norm": judge.params["final_norm"] * np.nan}
    with pytest.raises(UserError, match="not finite numbers"):
        shared_scorer(judge.model, judge.mesh, 8)(broken, texts()[:3])
