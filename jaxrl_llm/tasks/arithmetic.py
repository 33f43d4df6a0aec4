"""Word problems with worked equations, and what models are trained on with them.  No two splits share their numbers.

A row of it:

    Question: Lena has 3 bags with 6 shells in each bag. Tom gives Lena 5 shells. How many shells does Lena have now?
    Answer: Lena starts with 3*6=<<3*6=18>>18 shells.
    Then Lena has 18+5=<<18+5=23>>23 shells.
    #### 23
"""

import itertools
import random
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxrl_llm.schema import schema
from jaxrl_llm.tasks.numbers import final_number
from jaxrl_llm.tasks.task import Example, Split, Task, grade_number
from jaxrl_llm.tasks.wording import tell
from jaxrl_llm.tasks.worked import Compute, Sum, exact

LARGEST = 200

Difficulty = int | tuple[int, int]  # steps, or the fewest and the most of them


@schema
class ArithmeticConfig:
    """Word problems that are generated, right numbers and all: without end, and with a test split of their own."""

    kind: Literal["arithmetic"] = "arithmetic"
    difficulty: Annotated[int, Field(ge=1, le=8)] | tuple[int, int] = (1, 3)
    """Steps of a problem: a number, or the fewest and the most of them."""
    largest: int = Field(default=LARGEST, ge=20, le=100_000)
    """No number in a problem is larger.  Addends go up to three tenths of it; factors are small."""
    forgets: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the carries that the author of the worked answers forgets; see `problems` and `pair_rows`."""
    varied: bool = False
    """The author of the worked answers takes one of several right ways at every step, by chance; see `worked`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "ArithmeticConfig":
        fewest, most = (self.difficulty, self.difficulty) if isinstance(self.difficulty, int) else self.difficulty
        if not 1 <= fewest <= most <= 8:
            raise ValueError(f"difficulty is 1 to 8 steps, or a range of them such as [1, 3], not {[fewest, most]}")
        return self


def build(config: ArithmeticConfig) -> Task:
    """The task; its grader wants the number after the last "####"."""

    def examples(split: Split, n: int, seed: int) -> list[Example]:
        return list(problems(n, seed, split, config.difficulty, config.largest, config.forgets, config.varied))

    return Task("arithmetic", examples, lambda split: None, grade_number, final_number)


def problems(
    n: int,
    seed: int,
    split: Split = "train",
    difficulty: Difficulty = 1,
    largest: int = LARGEST,
    forgets: float = 0.0,
    varied: bool = False,
) -> Iterator[Example]:
    """`n` problems: the same ones for the same arguments, the first of them also for another `n`.

    Args:
        n: how many.
        seed: of the numbers and the wording.
        split: whose numbers.
        difficulty: steps.
        largest: the largest number that may come up.
        forgets: share of sums with a carry in which the author of the answer forgets it; see `uncarried`.  The
            questions and their values stay as they are.
        varied: the author takes one of several right ways at every step, by chance; see `worked`.  The questions and
            their values stay as they are.

    With `forgets` above a half the likeliest answer to a sum with a carry is the wrong one, and the right one is still
    sampled: a model that is fine-tuned on such answers writes what parses and ends, and errs in arithmetic alone.
    Decoded greedily, if it learned all of that, it is right where nothing is carried: in 67 % of problems of one step,
    45 % of two, 33 % of three.
    """
    rng, (compute, ways) = random.Random(f"{seed}/{split}/{difficulty}"), author(seed, forgets, varied)
    for index in range(n):
        numbers = draw(rng, split, _steps(rng, difficulty), largest)
        yield tell(rng, numbers, compute, f"arithmetic {split} problem {index} of seed {seed}", ways)


def author(seed: int, forgets: float, varied: bool) -> tuple[Compute, random.Random | None]:
    """How an author computes, and by what they choose a way: see `problems`."""
    slips = random.Random(f"{seed}/slips")

    def compute(total: int, operator: str, operand: int) -> int:
        return (uncarried if slips.random() < forgets else exact)(total, operator, operand)

    return compute, random.Random(f"{seed}/ways") if varied else None


def pair_rows(
    n: int,
    seed: int,
    split: Split = "train",
    difficulty: Difficulty = 1,
    largest: int = LARGEST,
    forgets: float = 0.0,
) -> Iterator[dict[str, str]]:
    """Rows to train a reward model on, {"prompt", "chosen", "rejected"}; arguments as of `problems`.

    The rejected answer tells the same story and slips in one sum, whichever it is: a carry is forgotten, or the result
    is off by one or by ten.  It goes on with that, so that it ends in a wrong number.  `forgets` is the share of the
    problems with a carry where just that is forgotten: what a policy trained on such an author is to be told of.
    """
    rng, slips = random.Random(f"{seed}/{split}/{difficulty}/pairs"), random.Random(f"{seed}/slips")
    for _ in range(n):
        numbers = draw(rng, split, _steps(rng, difficulty), largest)
        told = rng.getrandbits(64)
        chosen = tell(random.Random(told), numbers)
        carries = _carries(numbers)
        if carries and slips.random() < forgets:
            slip = _slip(slips.choice(carries), uncarried)
        else:
            slip = _slip(slips.randrange(len(numbers.operators)), partial(_off, slips))
        rejected = tell(random.Random(told), numbers, slip)
        yield {"prompt": chosen.question, "chosen": chosen.answer, "rejected": rejected.answer}


def draw(rng: random.Random, split: Split, steps: int, largest: int = LARGEST) -> Sum:
    """Numbers for one problem of a split."""
    while (numbers := _draw(rng, steps, largest)) is None or split_of(numbers.operands) != split:
        pass
    return numbers


def split_of(operands: tuple[int, ...]) -> Split:
    """The split that owns these operands, in whatever order: a tenth of all combinations are for testing."""
    return "test" if zlib.crc32(repr(sorted(operands)).encode()) % 10 == 0 else "train"


def uncarried(total: int, operator: str, operand: int) -> int:
    """The sum worked digit by digit, carries and borrows forgotten, the first column written out in full.

    18+25=33, 52-17=45, 18*3=34; but 60+58=118 and 7*8=56, where nothing is carried into a further column.  Where a
    result would be below zero, or an operand is, the sum is right.
    """
    if total < 0 or (operator == "-" and total < operand):
        return exact(total, operator, operand)
    left, right = ([int(digit) for digit in reversed(str(number))] for number in (total, operand))
    if operator == "*":
        columns = [0] * (len(left) + len(right) - 1)
        for (i, a), (j, b) in itertools.product(enumerate(left), enumerate(right)):
            columns[i + j] += a * b
    else:
        columns = [exact(a, operator, b) for a, b in itertools.zip_longest(left, right, fillvalue=0)]
    *lower, first = columns
    return sum(column % 10 * 10**place for place, column in enumerate(lower)) + first * 10 ** len(lower)


def _carries(numbers: Sum) -> list[int]:
    """Which of the sums have a carry."""
    found, total = [], numbers.operands[0]
    for index, (operator, operand) in enumerate(numbers.steps):
        right = exact(total, operator, operand)
        if uncarried(total, operator, operand) != right:
            found.append(index)
        total = right
    return found


def _slip(at: int, wrong: Compute) -> Compute:
    """An author who is wrong in the sum of number `at`."""
    steps = itertools.count()

    def compute(total: int, operator: str, operand: int) -> int:
        return (wrong if next(steps) == at else exact)(total, operator, operand)

    return compute


def _off(rng: random.Random, total: int, operator: str, operand: int) -> int:
    """A wrong result: without a carry, or off by one or by ten."""
    right = exact(total, operator, operand)
    wrong = {uncarried(total, operator, operand), right - 10, right - 1, right + 1, right + 10} - {right}
    return rng.choice(sorted(number for number in wrong if number >= 0))


def _steps(rng: random.Random, difficulty: Difficulty) -> int:
    return difficulty if isinstance(difficulty, int) else rng.randint(*difficulty)


def _draw(rng: random.Random, steps: int, largest: int) -> Sum | None:
    """Numbers for a problem, or None if they became too large or too small."""
    operators = tuple(rng.choice("+-*") for _ in range(steps))
    packed = operators[0] == "*"  # both small
    addend = 3 * largest // 10
    total = rng.randint(2, 12 if packed else addend)
    operands = [total]
    for index, operator in enumerate(operators):
        operand = rng.randint(2, {"+": addend, "-": max(total - 2, 2), "*": 12 if index == 0 else 4}[operator])
        total = exact(total, operator, operand)
        if not 2 <= total <= largest:
            return None
        operands.append(operand)
    return Sum(tuple(operands), operators)
