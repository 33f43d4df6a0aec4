"""The pool: who said what to which prompt, what is known of it, and what reward models and rules make of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.candidates import Answer, Group, join_runs
from jaxrl_llm.reject.choose import choose
from jaxrl_llm.reject.draw import NOTHING, Drawn
from jaxrl_llm.reject.pool import Asked, Pool, Scores, rate
from jaxrl_llm.rollout.config import (
    LengthPenaltyConfig,
    ModelRewardConfig,
    RewardsConfig,
    TaskRewardConfig,
)
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from tests.reject.made import asked, config, question

TASK = build_task(ArithmeticConfig(difficulty=1))
FIRST, SECOND = (Prompt((), each.prompt, each.origin, example=each) for each in TASK.examples("train", 2, 0))
LIKES = RewardsConfig(parts={"likes": ModelRewardConfig(path="rm")})


def group(prompt: Prompt, *answers: Answer, **more: Any) -> Group:
    return Group(prompt.said, answers, "pool.jsonl:1", **more)


def by_length(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    return np.asarray([len(text) for text in texts], np.float32)


def scored(pool: Sequence[Asked], folder: Path, rewards: RewardsConfig = LIKES, **more: Any) -> list[Asked]:
    scorers = {name: by_length for name, part in rewards.parts.items() if part.kind == "model"}
    given = {"scorers": scorers, "kept": Scores(folder, "rm"), "chunk": 2, "advance": lambda n: None}
    return rate(pool, rewards, **given | more)


def test_the_grader_speaks_of_what_is_asked_and_the_file_of_the_rest() -> None:
    """An old row that is wrong about a problem that is asked again does not matter; of others its word counts."""
    pool, right = Pool([FIRST], TASK, chat=True), f"#### {FIRST.example.value}"  # type: ignore[union-attr]
    pool.add_drawn("policy", [FIRST], [Drawn([right, "#### -7"], [True, True], [3, 3])])
    old = Answer(right, "policy", right=False), Answer("", "policy", right=True)
    pool.add_groups([group(FIRST, *old), group(SECOND, Answer("x", right=True), Answer("y"), safety=True)], "file")
    first, second = pool.asked
    assert [each.right for each in first.candidates] == [True, False, True, False]
    assert [(each.right, each.model) for each in second.candidates] == [(True, "file"), (None, "file")]
    assert second.prompt.safety


def test_the_human_answer_stands_first_where_there_is_one() -> None:
    pool = Pool([FIRST], TASK, chat=True)
    pool.add_groups([group(SECOND, Answer("x"))], "file")
    pool.add_human()
    first, second = pool.asked
    assert [(each.human, each.right) for each in first.candidates] == [(True, True)]
    assert [each.human for each in second.candidates] == [False]


def test_text_of_files_is_what_a_user_says_if_the_config_says_so() -> None:
    said = Pool([question("a")], None, chat=True)
    said.add_groups([Group("a", (Answer("x"),), "file:1")], "file")
    assert len(said.asked) == 1
    text = Pool([question("a")], None, chat=False)
    text.add_groups([Group("a", (Answer("x"),), "file:1")], "file")
    assert [each.prompt.said for each in text.asked] == [question("a").said, "a"]


def test_runs_are_joined_and_an_answer_that_came_twice_is_there_once() -> None:
    """The second run's pool holds the first's; what a run itself drew twice is there twice."""
    one = [group(FIRST, Answer("a", "policy"), Answer("a", "policy"), Answer("b", "policy"))]
    two = [group(FIRST, Answer("a", "policy"), *(Answer(t, "one/policy") for t in "aab"), Answer("c"))]
    (found,) = join_runs({"one": one, "two": [*two, group(FIRST, Answer("d", "runs/sft"))]})
    names = [(each.model, each.text) for each in found.answers]
    assert names[:3] == [("one/policy", "a"), ("one/policy", "a"), ("one/policy", "b")]
    assert names[3:] == [("two/policy", "a"), ("two/candidates", "c"), ("runs/sft", "d")]


def test_the_best_of_both_iterations_is_by_the_reward_model_of_today(tmp_path: Path) -> None:
    """The old run's file says 99; what is asked now says otherwise."""
    pool = Pool([FIRST, SECOND], None, chat=True)
    drawn = [Drawn(["new and long", "short"], [True] * 2, [3, 1]), Drawn(["new"], [True], [1])]
    pool.add_drawn("policy", [FIRST, SECOND], drawn)
    old = [group(FIRST, Answer("old", "policy", score=99.0)), group(SECOND, Answer("old, longer", "policy", score=-9))]
    pool.add_groups(join_runs({"one": old}), "earlier")
    rated = scored(pool.asked, tmp_path)
    assert [[each.score for each in row.candidates] for row in rated] == [[12, 5, 3], [3, 11]]
    found = [
        row.candidates[each.selected[0]] for row, each in zip(rated, choose(rated, config(rewards=LIKES)), strict=True)
    ]
    assert [(each.model, each.text) for each in found] == [("policy", "new and long"), ("one/policy", "old, longer")]


def test_scores_are_asked_for_once_and_again_where_anything_is_another(tmp_path: Path) -> None:
    calls: list[int] = []

    def counting(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return by_length(prompts, texts)

    rows = [asked("a", "bb", prompt=question(str(i))) for i in range(5)]
    first = scored(rows, tmp_path, scorers={"likes": counting})
    assert calls == [4, 4, 2]  # two prompts at a time
    assert scored(rows, tmp_path, scorers={"likes": counting}) == first
    assert len(calls) == 3
    scored(rows, tmp_path, scorers={"likes": counting}, kept=Scores(tmp_path, "another"))
    assert len(calls) == 6
    scaled = RewardsConfig(parts={"likes": ModelRewardConfig(path="rm", scale="centred")})
    scored(rows, tmp_path, scaled, scorers={"likes": counting})
    assert len(calls) == 9
    rows[0] = asked("a", "bb", "c", prompt=question("0"))
    scored(rows, tmp_path, scorers={"likes": counting})
    assert calls[9:] == [5]  # the others are as they were
    scored([asked("a", "a", "bb"), asked("a", prompt=question("b"))], tmp_path, scorers={"likes": counting})
    assert calls[10:] == [3]  # of equal answers to a prompt one is asked about


def test_two_reward_models_and_penalties_make_one_score_by_hand(tmp_path: Path) -> None:
    rewards = RewardsConfig(
        parts={
            "likes": ModelRewardConfig(path="a", weight=2.0),
            "also": ModelRewardConfig(path="b", weight=-1.0),
            "short": LengthPenaltyConfig(free=2, weight=0.5),
        },
        clip=4.0,
        missing_end="add",
        missing_end_value=-10.0,
    )
    scorers = {"likes": by_length, "also": lambda prompts, texts: np.ones(len(texts), np.float32)}
    row = asked("a", "bbbb", "cc", tokens=[1, 5, 3], ended=[True, True, False])
    (found,) = scored([row], tmp_path, rewards, scorers=scorers)
    # 2·1 − 1; 2·4 − 1 clipped to 4, less 3 tokens beyond two at a half; 2·2 − 1, less one token, less 10
    assert [each.score for each in found.candidates] == pytest.approx([1.0, 4.0 - 1.5, 3.0 - 0.5 - 10.0])


def test_safety_first_reads_the_prompts_tag(tmp_path: Path) -> None:
    rewards = RewardsConfig(
        parts={"helpfulness": ModelRewardConfig(path="a"), "safety": ModelRewardConfig(path="b")},
        combine="safety_first",
    )
    scorers = {"helpfulness": by_length, "safety": lambda prompts, texts: np.full(len(texts), 7.0, np.float32)}
    rows = [asked("a"), asked("a", prompt=question("bombs?", safety=True))]
    found = scored(rows, tmp_path, rewards, scorers=scorers)
    assert [row.candidates[0].score for row in found] == [1.0, 7.0]


def test_grades_count_as_a_part_and_what_is_not_known_is_named(tmp_path: Path) -> None:
    graded = RewardsConfig(parts={"grade": TaskRewardConfig(weight=2.0)})
    (found,) = scored([asked("a", "b", grade=[1.0, 0.0])], tmp_path, graded)
    assert [each.score for each in found.candidates] == [2.0, 0.0]
    with pytest.raises(UserError, match="no problem of the task, and the row does not say which answers are right"):
        scored([asked("a")], tmp_path, graded)
    short = RewardsConfig(parts={**LIKES.parts, "short": LengthPenaltyConfig()})
    with pytest.raises(UserError, match="tokens of an answer by policy are not known"):
        scored([asked("a")], tmp_path, short)
    broken = {"likes": lambda prompts, texts: np.full(len(texts), np.nan, np.float32)}
    with pytest.raises(UserError, match="must be finite"):
        scored([asked("a")], tmp_path / "broken", scorers=broken)


def test_nothing_rates_and_a_prompt_that_nobody_answered(tmp_path: Path) -> None:
    pool = Pool([FIRST, SECOND], None, chat=True)
    pool.add_drawn("policy", [FIRST, SECOND], [NOTHING, Drawn(["x"], [True], [1])])
    assert scored(pool.asked, tmp_path, RewardsConfig()) == pool.asked
    assert [len(row.candidates) for row in scored(pool.asked, tmp_path)] == [0, 1]
