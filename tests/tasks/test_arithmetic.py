"""Word problems: their equations are true, their splits share no numbers, and their authors slip where they should."""

import hashlib
import itertools
import re
from typing import Any

import pytest
from pydantic import ValidationError

from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import LARGEST, ArithmeticConfig, pair_rows, problems, split_of, uncarried
from jaxrl_llm.tasks.equations import check, evaluate
from jaxrl_llm.tasks.numbers import final_number
from jaxrl_llm.tasks.task import Example, grade_number

LEVELS = [1, 2, 3]


def operands(problem: Example) -> tuple[int, ...]:
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


def test_rows_stay_as_they_were() -> None:
    """Figures of trained models are stated for these: whoever changes them says so, and trains anew."""
    rows = [
        *((each.question, each.answer) for each in problems(500, 1, "test", (1, 3), 60, forgets=0.7)),
        *(tuple(row.values()) for row in pair_rows(500, 1, "train", 2, 200, forgets=0.7)),
    ]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "abd491a8e205c6e9"


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


def test_sizes_and_difficulties_are_settable() -> None:
    for example in problems(200, seed=0, difficulty=2, largest=40):
        assert max(map(int, re.findall(r"\d+", example.question + example.answer))) <= 40
    large = list(problems(200, seed=0, largest=5000))
    assert max(int(number) for example in large for number in re.findall(r"\d+", example.question)) > 1000
    assert {example.answer.count("<<") for example in problems(100, seed=0, difficulty=(2, 4))} == {2, 3, 4}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"difficulty": 0}, "greater than or equal to 1"),
        ({"difficulty": 9}, "less than or equal to 8"),
        ({"difficulty": (3, 1)}, r"not \[3, 1\]"),
        ({"difficulty": (0, 2)}, r"not \[0, 2\]"),
        ({"difficulty": (1, 9)}, r"not \[1, 9\]"),
        ({"largest": 10}, "greater than or equal to 20"),
    ],
)
def test_settings_that_make_no_problems_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ArithmeticConfig(**settings)


def test_the_task_hands_out_what_its_config_says() -> None:
    task = build_task(ArithmeticConfig(difficulty=(1, 2), largest=50))
    examples = task.examples("test", 50, 3)
    assert examples == list(problems(50, 3, "test", (1, 2), 50)) == task.examples("test", 60, 3)[:50]
    assert examples != task.examples("test", 50, 4)
    assert (task.name, task.size("train"), task.size("test")) == ("arithmetic", None, None)
    assert examples[7].origin == "arithmetic test problem 7 of seed 3"
    assert examples[7].prompt == ({"role": "user", "content": examples[7].question},)
    assert examples[7].text == f"Question: {examples[7].question}\nAnswer:"
    assert all(task.grade(example.answer, example) == 1.0 for example in examples)
    assert all(task.grade(a.answer, b) == float(a.value == b.value) for a, b in itertools.pairwise(examples))
    assert task.parse(examples[7].answer) == examples[7].value


@pytest.mark.parametrize(
    ("total", "operator", "operand", "result"),
    [
        (18, "+", 25, 33),
        (95, "+", 108, 193),
        (60, "+", 58, 118),  # the first column, in full
        (52, "-", 17, 45),
        (103, "-", 5, 108),
        (57, "-", 13, 44),
        (18, "*", 3, 34),
        (12, "*", 9, 98),
        (7, "*", 8, 56),
        (12, "*", 12, 144),
        (3, "-", 12, -9),  # below zero: right
        (-8, "+", 19, 11),
    ],
)
def test_sums_without_carries(total: int, operator: str, operand: int, result: int) -> None:
    assert uncarried(total, operator, operand) == result


def test_an_author_who_forgets_carries_writes_answers_that_parse_and_are_wrong_for_that_alone() -> None:
    right, forgetful = list(problems(500, 0, "train", 2)), list(problems(500, 0, "train", 2, forgets=1.0))
    assert [(each.question, each.value) for each in right] == [(each.question, each.value) for each in forgetful]
    for example, worked in zip(right, forgetful, strict=True):
        sums = re.findall(r"<<(-?\d+)([-+*])(\d+)=(-?\d+)>>", worked.answer)
        assert [uncarried(int(a), operator, int(b)) for a, operator, b, _ in sums] == [int(each[3]) for each in sums]
        assert worked.answer.endswith(f"\n#### {sums[-1][3]}")
        assert all(each.right for each in check(worked.answer)) == (worked.answer == example.answer)
    accuracy = sum(grade_number(worked.answer, worked) for worked in forgetful) / 500
    assert 0.40 < accuracy < 0.50  # the 45 % of the docstring

    def wrong(forgets: float) -> int:
        return sum(
            not sum_.right for each in problems(500, 0, "train", 2, forgets=forgets) for sum_ in check(each.answer)
        )

    assert 0.5 < wrong(0.6) / wrong(1.0) < 0.7


def test_the_rejected_answer_of_a_pair_has_one_wrong_sum_and_ends_wrong() -> None:
    off = set()
    for row in pair_rows(500, seed=0, difficulty=(1, 3)):
        chosen, rejected = check(row["chosen"]), check(row["rejected"])
        assert len(chosen) == len(rejected)
        assert all(each.right for each in chosen)
        assert sum(not each.right for each in rejected) == 1
        assert final_number(row["chosen"]) != final_number(row["rejected"])
        assert re.sub(r"-?\d+", "_", row["chosen"]) == re.sub(r"-?\d+", "_", row["rejected"]).replace("--", "-")
        assert split_of(tuple(map(int, re.findall(r"\d+", row["prompt"])))) == "train"
        said = next(each.text for each in rejected if not each.right)
        left, _, result = said.rpartition("=")
        off.add(int(result) - int(evaluate(left)))
    assert {-10, -1, 1, 10} < off


def test_rejected_answers_forget_a_carry_as_often_as_is_said() -> None:
    def slips(forgets: float) -> list[bool]:
        """Of each pair whose problem has a carry: whether the wrong sum is one that was worked without it."""
        found = []
        for row in pair_rows(500, 0, "train", 2, forgets=forgets):
            sums = [
                (uncarried(int(a), sign, int(b)), int(result))
                for a, sign, b, result in re.findall(r"<<(\d+)([-+*])(\d+)=(\d+)>>", row["chosen"])
            ]
            if any(without != right for without, right in sums):
                wrong = re.findall(r"<<(\d+)([-+*])(\d+)=(-?\d+)>>", row["rejected"])
                at = next(n for n, each in enumerate(check(row["rejected"])) if not each.right)
                a, sign, b, result = wrong[at]
                found.append(uncarried(int(a), sign, int(b)) == int(result))
        return found

    never, mostly, always = map(slips, (0.0, 0.7, 1.0))
    assert all(always)
    assert 0.1 < sum(never) / len(never) < 0.5
    assert 0.7 < sum(mostly) / len(mostly) < 0.9


def test_pairs_are_the_same_for_the_same_seed_and_of_their_split() -> None:
    assert list(pair_rows(20, seed=3)) == list(pair_rows(20, seed=3)) != list(pair_rows(20, seed=4))
    for row in pair_rows(20, seed=3, split="test"):
        assert split_of(tuple(map(int, re.findall(r"\d+", row["prompt"])))) == "test"
