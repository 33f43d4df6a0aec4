"""The figures of the report, by hand."""

import pytest

from jaxrl_llm.reject.choose import choose
from jaxrl_llm.reject.config import AllConfig, BestWorstConfig, KeepConfig
from jaxrl_llm.reject.figures import figures_of, histograms, paths_of, reward_accuracy, samples_of, worth
from jaxrl_llm.reject.pool import Asked
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from tests.reject.made import asked, config, question, with_human

POOL = [
    asked("#### 1", "#### 2", "#### 1 ", scores=[3.0, 1.0, 2.0], grade=[1.0, 0.0, 1.0], model=["a", "b", "a"]),
    asked("#### 5", scores=[-2.0], grade=[0.0], model=["b"], prompt=question("3+3?")),
    Asked(question("nobody?")),
]


def test_a_prompt_counts_once_before_and_after() -> None:
    setting = config(pairs=BestWorstConfig())
    pool = [with_human(POOL[0], "worked #### 1"), *POOL[1:]]
    found = figures_of(pool, choose(pool, setting), None)
    assert found["before"] == {
        "answers": 4.0,
        "accuracy": pytest.approx((2 / 3 + 0) / 2),
        "score": pytest.approx((2.0 - 2.0) / 2),
        "ended": 1.0,
    }
    assert found["after"] == {"answers": 2.0, "accuracy": 0.5, "score": pytest.approx((3.0 - 2.0) / 2), "ended": 1.0}
    assert found["prompts"] == {"asked": 3, "with answers": 2, "with a selected one": 2}
    assert (found["answers"], found["selected"], found["human"], found["pairs"]) == (4, 2, 1, 1)
    assert found["contrast"] == {"fewer than two answers": 2}
    assert found["answers"] == sum(found["filters"].values()) + found["selected"]
    assert found["by_model"]["a"]["accuracy"] == 1.0
    assert found["by_model"]["b"]["score"] == pytest.approx((1.0 - 2.0) / 2)


def test_what_is_not_known_is_left_out() -> None:
    pool = [asked("x", "y")]
    found = figures_of(pool, choose(pool, config(select=AllConfig(), keep=KeepConfig())), None)
    assert found["before"] == {"answers": 2.0, "ended": 1.0}
    assert found["scores"] is None
    assert found["samples"] is None
    assert found["reward_accuracy"] is None
    assert found["paths"] is None
    assert worth([[]]) == {"answers": 0.0}


def test_how_often_right_scores_above_wrong() -> None:
    rows = [POOL[0].candidates, asked("x", "y", scores=[1.0, 1.0], grade=[1.0, 0.0]).candidates, POOL[1].candidates]
    assert reward_accuracy(rows) == {"accuracy": pytest.approx((1.0 + 0.5) / 2), "prompts": 2}


def test_paths_are_lists_of_equations_of_right_answers() -> None:
    texts = "<<1+1=2>> so <<2+1=3>>", "<<1+1 = 2>>, <<2+1=3>>", "<<2+1=3>>", "nothing", "<<3*1=3>>"
    rows = [asked(*texts, grade=[1.0, 1.0, 1.0, 1.0, 0.0]).candidates, POOL[1].candidates]
    assert paths_of(rows) == pytest.approx((3 + 0) / 2)


def test_samples_are_of_a_task_with_as_many_answers_to_each() -> None:
    task = build_task(ArithmeticConfig())
    row = asked("#### 1", "#### 2", scores=[1.0, 2.0], grade=[1.0, 0.0]).candidates
    found = samples_of([row, row[::-1]], task)
    assert found is not None
    assert found["pass"][1]["rate"] == pytest.approx(0.5)
    assert found["pass"][2]["rate"] == 1.0
    assert samples_of([row, row[:1]], task) is None
    assert samples_of([row, row], None) is None


def test_histograms_share_their_bins() -> None:
    row = asked("x", "y", "z", scores=[0.0, 1.0, 1.0]).candidates
    found = histograms(row, row[1:])
    assert found is not None
    assert (found["drawn"][0], found["drawn"][-1]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found["selected"][-1] == 1.0
    assert found["edges"][0] == 0.0
