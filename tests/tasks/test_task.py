"""Grading many completions: float32, and a grader that misbehaves is named with its row."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import TASKS, build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from jaxrl_llm.tasks.gsm8k import Gsm8kConfig
from jaxrl_llm.tasks.task import Example, Task, grade_all

EXAMPLES = [Example(f"{i}?", f"#### {i}", Fraction(i), f"a.jsonl:{i}") for i in range(3)]
COMPLETIONS = ["#### 0", "#### 7", "#### 2"]


def task(grade: Callable[[str, Example], Any]) -> Task:
    return Task("sums", lambda split, n, seed: EXAMPLES, lambda split: 3, grade, lambda completion: None)


def test_grades_are_float32_and_fractions_survive() -> None:
    grades = grade_all(task(lambda completion, example: float(example.value) / 8), COMPLETIONS, EXAMPLES)
    assert grades.dtype == np.float32
    assert grades.tolist() == [0.0, 0.125, 0.25]
    assert grade_all(build_task(ArithmeticConfig()), COMPLETIONS, EXAMPLES).tolist() == [1.0, 0.0, 1.0]
    assert grade_all(task(lambda *_: np.int64(3)), COMPLETIONS, EXAMPLES).tolist() == [3.0] * 3
    assert grade_all(task(lambda *_: 1.0), [], []).shape == (0,)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (float("nan"), "gave nan, which is not finite in float32"),
        (float("-inf"), "gave -inf, which is not finite in float32"),
        (np.float32("nan"), "gave .*nan.*, which is not finite in float32"),
        (1e39, "gave 1e[+]39, which is not finite in float32"),
        (10**400, "gave 10*, which is not finite in float32"),
        (None, "gave None, which is no number"),
        ("1", "gave '1', which is no number"),
        (True, "gave True, which is no number"),
        ([1.0, 0.0], "gave .1.0, 0.0., which is no number"),
        (np.ones(2), "gave array.*, which is no number"),
        (1j, "gave 1j, which is no number"),
        (ZeroDivisionError("by nothing"), "failed: ZeroDivisionError: by nothing"),
    ],
)
def test_a_grader_that_misbehaves_is_named_with_its_row(result: Any, said: str) -> None:
    def grade(completion: str, example: Example) -> Any:
        if example.value != 1:
            return 1.0
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(UserError, match=f"^the grader of sums {said}\n  row 1, a.jsonl:1: '#### 7'\n  mend: "):
        grade_all(task(grade), COMPLETIONS, EXAMPLES)


def test_each_completion_has_its_example() -> None:
    with pytest.raises(ValueError, match="zip"):
        grade_all(build_task(ArithmeticConfig()), COMPLETIONS, EXAMPLES[:2])


def test_the_table_has_every_kind() -> None:
    for config in (ArithmeticConfig(), Gsm8kConfig(path="unread.jsonl")):
        assert build_task(config).name == config.kind
    assert set(TASKS) == {ArithmeticConfig().kind, Gsm8kConfig(path="").kind}
