"""Ways to work a problem: each is right, each occurs, and none changes what is asked or what comes out."""

import random
import re
from fractions import Fraction
from typing import TypeVar

import pytest

from jaxrl_llm.tasks.arithmetic import LARGEST, draw, problems, uncarried
from jaxrl_llm.tasks.equations import check
from jaxrl_llm.tasks.numbers import final_number
from jaxrl_llm.tasks.wording import tell
from jaxrl_llm.tasks.worked import Line, Sum, Way, plans_of, ways_of, work

T = TypeVar("T")


class Chosen(random.Random):
    """Takes what it is told to, then always the first."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(0)
        self.numbers = iter(numbers)

    def choice(self, seq: "list[T]") -> T:  # type: ignore[override]
        return seq[next(self.numbers, 0)]


def equations(answer: str) -> tuple[str, ...]:
    return tuple(each.text for each in check(answer))


@pytest.mark.parametrize(
    ("total", "step", "ways"),
    [
        (18, ("+", 25), ["18+25", "18+20 +5", "25+18", "25+10 +8"]),
        (18, ("+", 20), ["18+20", "20+18", "20+10 +8"]),
        (8, ("+", 5), ["8+5", "5+8"]),
        (7, ("+", 7), ["7+7"]),
        (125, ("+", 118), ["125+118", "125+110 +8", "118+125", "118+120 +5"]),
        (52, ("-", 17), ["52-17", "52-10 -7"]),
        (52, ("-", 20), ["52-20"]),
        (3, ("*", 6), ["3*6", "6*3", "6+6+6"]),
        (18, ("*", 4), ["18*4", "4*18", "18+18+18+18"]),
        (6, ("*", 7), ["6*7", "7*6"]),
        (2, ("*", 2), ["2*2", "2+2"]),
        (1, ("*", 6), ["1*6", "6*1"]),  # where an author came who errs
        (0, ("*", 6), ["0*6", "6*0"]),
        (-3, ("+", 25), ["-3+25"]),
        (-3, ("*", 4), ["-3*4"]),
    ],
)
def test_the_ways_of_a_step(total: int, step: tuple[str, int], ways: list[str]) -> None:
    def said(way: Way) -> str:
        return str(way.start) + " ".join("".join(f"{sign}{n}" for sign, n in steps) for steps in way.equations)

    assert [said(way) for way in ways_of(total, step)] == ways


def test_the_orders_of_two_steps() -> None:
    more, less = ("+", 25), ("-", 5)
    told, swapped, as_one = [(more,), (less,)], [(less,), (more,)], [(more, less)]
    assert plans_of(18, more, less) == [told, swapped, as_one]
    assert plans_of(5, more, less) == [told, as_one]  # 5-5 is not above 0
    assert plans_of(18, less, more) == [swapped, [(less, more)]]  # 18+25 is above 18, 13 and 38
    assert plans_of(18, ("+", 25), ("+", 7)) == [[(more,), (("+", 7),)], [(("+", 7),), (more,)], [(more, ("+", 7))]]
    assert plans_of(40, less, ("-", 7)) == [[(less,), (("-", 7),)], [(("-", 7),), (less,)], [(less, ("-", 7))]]
    assert plans_of(18, more, ("-", 25)) == [[(more,), (("-", 25),)]]  # no change at all; and 18-25 is below 1
    assert plans_of(18, more, more) == [[(more,), (more,)], [(more, more)]]


@pytest.mark.parametrize(
    ("numbers", "change", "total"),
    [
        (Sum((18, 25, 5), ("+", "-")), Line((("25-5", 20),), "+"), Line((("18+20", 38),))),
        (Sum((40, 25, 5), ("-", "+")), Line((("25-5", 20),), "-"), Line((("40-20", 20),))),
        (Sum((18, 5, 25), ("-", "+")), Line((("25-5", 20),), "+"), Line((("18+20", 38),))),
        (Sum((18, 25, 5), ("+", "+")), Line((("25+5", 30),), "+"), Line((("18+30", 48),))),
        (Sum((40, 7, 5), ("-", "-")), Line((("7+5", 12),), "-"), Line((("40-12", 28),))),
    ],
)
def test_two_steps_as_one(numbers: Sum, change: Line, total: Line) -> None:
    last = len(plans_of(numbers.operands[0], *numbers.steps)) - 1
    assert list(work(numbers, ways=Chosen(last))) == [change, total]


def test_later_steps_are_ordered_by_what_there_is_by_then() -> None:
    lines = work(Sum((3, 10, 25, 20), ("*", "+", "-")), ways=Chosen(0, 1))
    assert [line.equations for line in lines] == [(("3*10", 30),), (("30-20", 10),), (("10+25", 35),)]


def test_an_answer_in_other_ways_reads_well() -> None:
    def answer(numbers: Sum, *choices: int) -> str:
        return tell(random.Random(3), numbers, ways=Chosen(*choices)).answer

    swapped = "After that Henry has 18-5=<<18-5=13>>13 tickets.\nThen Henry has 13+25=<<13+25=38>>38 tickets.\n#### 38"
    assert answer(Sum((18, 25, 5), ("+", "-")), 1) == swapped
    as_one = (
        "Both together make 25-5=<<25-5=20>>20 more tickets.\nThen Henry has 18+20=<<18+20=38>>38 tickets.\n#### 38"
    )
    assert answer(Sum((18, 25, 5), ("+", "-")), 2) == as_one
    split = "Both together make 25+10=<<25+10=35>>35, then 35+6=<<35+6=41>>41 fewer tickets.\n"
    assert answer(Sum((90, 25, 16), ("-", "-")), 2, 1).startswith(split)
    assert answer(Sum((3, 6), ("*",)), 2) == "Henry starts with 6+6+6=<<6+6+6=18>>18 tickets.\n#### 18"


def test_ten_thousand_varied_answers_are_right_and_short() -> None:
    plain, varied = (list(problems(10_000, 0, "train", (1, 3), varied=each)) for each in (False, True))
    assert [(each.question, each.value) for each in plain] == [(each.question, each.value) for each in varied]
    several = 0
    for one, other in zip(plain, varied, strict=True):
        found = check(other.answer)
        assert all(each.right for each in found)
        assert final_number(other.answer) == other.value
        n_steps = one.answer.count("<<")
        assert n_steps <= len(found) <= 2 * n_steps
        assert len(other.answer.splitlines()) == len(one.answer.splitlines())
        assert max(map(int, re.findall(r"\d+", other.answer))) <= LARGEST
        assert not re.search(r"[-+*]-|=-|<<-|{", other.answer)
        several += equations(one.answer) != equations(other.answer)
    assert 6000 < several < 8000


def test_each_way_occurs() -> None:
    text = "\n".join(each.answer for each in problems(500, 0, "train", 2, varied=True))
    for way in (
        r"<<(\d+)\+\1=",
        r"<<(\d+)\+\1\+\1=",
        r"\+\d+0=\d+>>\d+, then ",
        r"-\d+0=\d+>>\d+, then ",
        "more",
        "fewer",
    ):
        assert len(re.findall(way, text)) > 5, way


def test_one_problem_has_many_ways_over_seeds() -> None:
    numbers = Sum((18, 25, 14), ("+", "-"))
    lists = {equations(tell(random.Random(0), numbers, ways=random.Random(seed)).answer) for seed in range(300)}
    # told: 4 ways of 18+25, 2 of 43-14; swapped: 2 of 18-14, 2 of 4+25 ... ; as one: 2 of 25-14, 4 of 18+11
    swapped = 2 * 3  # 4+25 is also 25+4, and 4+20, then 24+5
    assert len(lists) == 4 * 2 + swapped + 2 * 4
    asked = {tell(random.Random(0), numbers, ways=random.Random(seed)).question for seed in range(300)}
    assert len(asked) == 1


def test_the_same_seed_takes_the_same_ways() -> None:
    once, again, other = (list(problems(30, seed, varied=True)) for seed in (1, 1, 2))
    assert once == again != other
    assert list(problems(60, 1, varied=True))[:30] == once


def test_an_author_may_forget_carries_in_any_way() -> None:
    wrong = list(problems(2000, 0, "train", (1, 3), forgets=1.0, varied=True))
    assert [each.value for each in wrong] == [each.value for each in problems(2000, 0, "train", (1, 3))]
    for problem in wrong:
        assert final_number(problem.answer) == Fraction(equations(problem.answer)[-1].rpartition("=")[2])
        for left, sign, right, result in re.findall(r"<<(-?\d+)([-+*])(\d+)=(-?\d+)>>", problem.answer):
            assert uncarried(int(left), sign, int(right)) == int(result)
    share = sum(final_number(each.answer) == each.value for each in wrong) / len(wrong)
    assert 0.4 < share < 0.7


def test_what_is_drawn_has_ways() -> None:
    rng = random.Random(0)
    for _ in range(300):
        numbers = draw(rng, "train", 3)
        assert list(work(numbers))[-1].result == list(work(numbers, ways=rng))[-1].result
