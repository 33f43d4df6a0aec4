"""A problem's numbers, and how its author works them: step by step as it is told, or in another right way."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

Compute = Callable[[int, str, int], int]  # (total, operator, operand) -> what the author thinks it makes
Step = tuple[str, int]  # an operator, and the operand that it applies to the total
MOST_ADDENDS = 4  # of a product that is worked as a sum


class Sum(NamedTuple):
    """A problem's numbers: start with the first operand, then apply one operator to each of the others."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def steps(self) -> list[Step]:
        """What is done to the first operand."""
        return list(zip(self.operators, self.operands[1:], strict=True))


class Way(NamedTuple):
    """How to work one step.

    >>> Way(18, ((("+", 20),), (("+", 5),)))  # 18+20=38, 38+5=43
    """

    start: int
    equations: tuple[tuple[Step, ...], ...]  # what each of them does, to what the one before made


class Line(NamedTuple):
    """What one sentence of an answer says."""

    equations: tuple[tuple[str, int], ...]  # ("18+25", 43)
    change: str | None = None  # "+", "-": it is by how much two steps change the total; None: it is the total

    @property
    def result(self) -> int:
        """What its last equation makes."""
        return self.equations[-1][1]


def exact(total: int, operator: str, operand: int) -> int:
    """What it makes."""
    return {"+": total + operand, "-": total - operand, "*": total * operand}[operator]


def work(numbers: Sum, compute: Compute = exact, ways: random.Random | None = None) -> Iterator[Line]:
    """The lines of an answer, one a step.  An author who computes wrong goes on with what he has.

    Args:
        numbers: those of the problem.
        compute: of two numbers.
        ways: draws one of `plans_of` and of `ways_of`; None: as it is told, one equation a step.
    """
    total = numbers.operands[0]
    for steps in _planned(numbers, ways):
        step = steps[0]
        if len(steps) == 2:
            sign, start, inner = _together(*steps)
            change = _line(start, inner, compute, ways, sign)
            step = (sign, change.result)
            yield change
        line = _line(total, step, compute, ways)
        total = line.result
        yield line


def plans_of(total: int, first: Step, second: Step) -> list[list[tuple[Step, ...]]]:
    """The orders in which two steps of + and - may be taken: as told, the second first, or both as one.

    18+25-5 is also 18-5+25, or 25-5 more than 18.  None leads below 1, or above the numbers of the order that is told.
    """
    middle, other = exact(total, *first), exact(total, *second)
    end = exact(middle, *second)
    plans: list[list[tuple[Step, ...]]] = [[(first,), (second,)]]
    if first != second and 0 < other <= max(total, middle, end):
        plans.append([(second,), (first,)])
    if end != total:
        plans.append([(first, second)])
    return plans


def ways_of(total: int, step: Step) -> list[Way]:
    """The right ways to work a step, the plain one first: 18+25, 25+18, 18+20 and 38+5, 25+10 and 35+8; 6*3, 6+6+6."""
    operator, operand = step
    plain = Way(total, ((step,),))
    if total < 0:  # an author who errs came here, and writes no 25+-8
        return [plain]
    ways = [plain]
    if operator == "*":
        few, many = sorted((total, operand))
        ways.append(Way(operand, ((("*", total),),)))
        if 2 <= few <= MOST_ADDENDS:
            ways.append(Way(many, ((("+", many),) * (few - 1),)))
    else:
        ways += _tens_and_ones(total, operator, operand)
    if operator == "+":
        ways.append(Way(operand, ((("+", total),),)))
        ways += _tens_and_ones(operand, "+", total)
    return list(dict.fromkeys(ways))


def _tens_and_ones(total: int, operator: str, operand: int) -> list[Way]:
    """The way in two equations, if there is one."""
    tens, ones = operand - operand % 10, operand % 10
    return [Way(total, (((operator, tens),), ((operator, ones),)))] if tens and ones else []


def _planned(numbers: Sum, ways: random.Random | None) -> Iterator[tuple[Step, ...]]:
    """What is worked one after the other: a step, or two as one."""
    total, steps = numbers.operands[0], numbers.steps
    while steps:
        plan: list[tuple[Step, ...]] = [(steps[0],)]
        if ways is not None and len(steps) > 1 and "*" not in (steps[0][0], steps[1][0]):
            plan = ways.choice(plans_of(total, steps[0], steps[1]))
        yield from plan
        taken = sum(map(len, plan))
        for step in steps[:taken]:
            total = exact(total, *step)
        steps = steps[taken:]


def _together(first: Step, second: Step) -> tuple[str, int, Step]:
    """Which sign two steps have as one, and what to work for its operand: +25-5 is "+", 25-5."""
    if first[0] == second[0]:
        return first[0], first[1], ("+", second[1])
    larger, smaller = sorted((first, second), key=lambda step: step[1], reverse=True)
    return larger[0], larger[1], ("-", smaller[1])


def _line(total: int, step: Step, compute: Compute, ways: random.Random | None, change: str | None = None) -> Line:
    way = Way(total, ((step,),)) if ways is None else ways.choice(ways_of(total, step))
    value, equations = way.start, []
    for done in way.equations:
        said = f"{value}{''.join(f'{operator}{operand}' for operator, operand in done)}"
        for each in done:
            value = compute(value, *each)
        equations.append((said, value))
    return Line(tuple(equations), change)
