"""Word problems: their equations are true, their splits share no numbers, and the grader reads the last number."""

import itertools
import json
import re
from pathlib import Path

import pytest

from jaxrl_llm.tasks.arithmetic import LARGEST, Problem, grade, problems

LEVELS = [1, 2, 3]


def operands(problem: Problem) -> tuple[int, ...]:
    """The numbers of a problem's question, sorted: those of its equations that are no result."""
    equations = re.findall(r"<<(\d+)[-+*](\d+)=\d+>>", problem.answer)
    return tuple(sorted([int(equations[0][0]), *(int(right) for _, right in equations)]))


@pytest.mark.parametrize("difficulty", LEVELS)
def test_every_equation_is_true_and_leads_to_the_value(difficulty: int) -> None:
    for problem in problems(300, seed=1, difficulty=difficulty):
        total = None
        equations = re.findall(r" (\d+)([-+*])(\d+)=<<(\d+)([-+*])(\d+)=(\d+)>>(\d+) ", problem.answer)
        assert len(equations) == difficulty
        for left, operator, right, *again, result, shown in equations:
            assert [left, operator, right] == again
            assert total in (None, int(left))
            total = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(left), int(right))
            assert int(result) == int(shown) == total
            assert 2 <= total <= LARGEST
        assert problem.value == total
        assert problem.answer.endswith(f"\n#### {total}")
        assert sorted(int(number) for number in re.findall(r"\d+", problem.question)) == list(operands(problem))
        assert "{" not in problem.question + problem.answer


def test_the_same_arguments_give_the_same_problems() -> None:
    assert list(problems(20, seed=3)) == list(problems(20, seed=3))
    assert list(problems(20, seed=3)) != list(problems(20, seed=4))
    assert list(problems(20, seed=3))[:5] == list(problems(5, seed=3))


@pytest.mark.parametrize("difficulty", LEVELS)
def test_no_numbers_of_a_test_problem_are_in_a_training_problem(difficulty: int) -> None:
    train, test = (
        {operands(problem) for problem in problems(3000, seed, split, difficulty)}  # type: ignore[arg-type]
        for seed, split in ((0, "train"), (1, "test"))
    )
    assert len(test) > 50
    assert not train & test


def test_problems_are_of_many_kinds() -> None:
    several = list(problems(2000, seed=0))
    assert len({problem.question for problem in several}) > 1950
    assert len({re.sub(r"[A-Z][a-z]+|\d+|\w+s\b", "_", problem.question) for problem in several}) > 100
    assert {re.findall(r"<<\d+([-+*])", problem.answer)[0] for problem in several} == {"+", "-", "*"}


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("#### 1234", 1.0),
        ("so it is <<1+1233=1234>>1234.\n#### 1,234", 1.0),
        ("####1234\n\nQuestion: another", 1.0),
        ("#### $1,234.00 apples", 1.0),
        ("#### 1234.", 1.0),
        ("#### 7\nno:\n#### 1234", 1.0),
        ("#### 1234\nno:\n#### 7", 0.0),
        ("#### 1234\n####", 0.0),
        ("1234", 0.0),
        ("### 1234", 0.0),
        ("#### -1234", 0.0),
        ("#### 1234.5", 0.0),
        ("#### 12345", 0.0),
        ("#### 12,34", 0.0),
        ("#### 1 234", 0.0),
        ("#### the number is 1234", 0.0),
        ("#### " + "9" * 10_000, 0.0),
        ("#### ١٢٣٤", 0.0),
        ("", 0.0),
    ],
)
def test_grade(completion: str, score: float) -> None:
    assert grade(completion, Problem("", "", 1234)) == score


def test_every_answer_is_graded_right_and_anothers_wrong() -> None:
    several = list(problems(200, seed=0, difficulty=2))
    assert all(grade(problem.answer, problem) == 1.0 for problem in several)
    assert all(grade(a.answer, b) == float(a.value == b.value) for a, b in itertools.pairwise(several))


def test_gsm8k_answers_are_read(shared_data: Path) -> None:
    for line in (shared_data / "gsm8k" / "test_first_half.jsonl").read_text().splitlines()[:200]:
        answer = json.loads(line)["answer"]
        value = int(answer.rsplit("#### ", 1)[1].replace(",", ""))
        assert grade(answer, Problem("", "", value)) == 1.0
        assert grade(answer, Problem("", "", value + 1)) == 0.0
