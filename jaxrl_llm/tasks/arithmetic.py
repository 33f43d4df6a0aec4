"""Word problems with worked equations, of one to three steps, and their grader.  No two splits share their numbers.

A row of it:

    Question: Lena has 3 bags with 6 shells in each bag. Tom gives Lena 5 shells. How many shells does Lena have now?
    Answer: Lena starts with 3*6=<<3*6=18>>18 shells.
    Then Lena has 18+5=<<18+5=23>>23 shells.
    #### 23
"""

import random
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, NamedTuple

Split = Literal["train", "test"]
LARGEST = 200  # no number in a problem is larger

# fmt: off
NAMES = (
    "Anna", "Ben", "Clara", "Daniel", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas",
    "Lena", "Max", "Nora", "Oscar", "Rosa", "Sam", "Tara", "Tom", "Vera", "Will",
)
THINGS = (
    "apples", "books", "buttons", "cards", "coins", "cookies", "flowers", "marbles", "nuts", "pencils",
    "plums", "ribbons", "shells", "stamps", "stars", "stickers", "stones", "tickets", "toys",
)
# fmt: on
BOXES = (
    ("bag", "bags"),
    ("basket", "baskets"),
    ("box", "boxes"),
    ("jar", "jars"),
    ("crate", "crates"),
    ("tin", "tins"),
)
STARTS = (
    "{name} has {a} {things}.",
    "In the morning {name} has {a} {things}.",
    "{name} owns {a} {things}.",
    "There are {a} {things} on the table of {name}.",
    "{name} counts {a} {things}.",
)
PACKED_STARTS = (
    "{name} has {a} {boxes} with {b} {things} in each {box}.",
    "{name} fills {a} {boxes} and puts {b} {things} into each {box}.",
    "There are {b} {things} in every {box}, and {name} has {a} {boxes}.",
    "{name} buys {a} {boxes}. Each {box} holds {b} {things}.",
)
EVENTS = {
    "+": (
        "{name} finds {b} more {things}.",
        "{friend} gives {name} {b} {things}.",
        "{name} buys {b} more {things} at the market.",
        "Then {b} {things} come in the mail for {name}.",
        "{friend} brings {b} more {things} for {name}.",
        "{name} wins {b} {things} in a game with {friend}.",
    ),
    "-": (
        "{name} gives {b} {things} to {friend}.",
        "{name} loses {b} of the {things} on the way home.",
        "{friend} takes {b} of the {things}.",
        "{name} sells {b} {things} at the market.",
        "{name} leaves {b} {things} at school.",
        "{friend} borrows {b} {things} from {name}.",
    ),
    "*": (
        "After a lucky week {name} has {b} times as many {things}.",
        "By the end of summer {name} has {b} times as many {things}.",
        "{friend} helps, and soon {name} has {b} times as many {things}.",
    ),
}
QUESTIONS = (
    "How many {things} does {name} have now?",
    "How many {things} does {name} have in the end?",
    "What is the number of {things} that {name} has now?",
    "How many {things} belong to {name} after that?",
)
STEPS = ("Then {name} has", "Now {name} has", "That makes", "After that {name} has")


class Problem(NamedTuple):
    """A question, a worked answer that ends with "#### value", and the value."""

    question: str
    answer: str
    value: int


class Sum(NamedTuple):
    """A problem's numbers: start with the first operand, then apply one operator to each of the others."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]


def problems(n: int, seed: int, split: Split = "train", difficulty: int = 1) -> Iterator[Problem]:
    """`n` problems of `difficulty` steps, 1 to 3: the same ones for the same arguments."""
    rng = random.Random(f"{seed}/{split}/{difficulty}")
    return (make_problem(rng, split, difficulty) for _ in range(n))


def make_problem(rng: random.Random, split: Split, difficulty: int) -> Problem:
    """One problem of `difficulty` steps."""
    while (numbers := _draw(rng, difficulty)) is None or split_of(numbers.operands) != split:
        pass
    return _tell(rng, numbers)


def split_of(operands: tuple[int, ...]) -> Split:
    """The split that owns these operands, in whatever order: a tenth of all combinations are for testing."""
    return "test" if zlib.crc32(repr(sorted(operands)).encode()) % 10 == 0 else "train"


def grade(completion: str, problem: Problem) -> float:
    """1.0 if the number after the last "####" is the problem's value, else 0.0.  Commas may group its digits."""
    tail = completion.rpartition("####")[2] if "####" in completion else ""
    number = re.match(r"\s*\$?(-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)", tail)
    return float(number is not None and Decimal(number[1].replace(",", "")) == problem.value)


def _draw(rng: random.Random, steps: int) -> Sum | None:
    """Numbers for a problem, or None if they became too large or too small."""
    operators = tuple(rng.choice("+-*") for _ in range(steps))
    packed = operators[0] == "*"  # "3 bags with 6 shells in each": both small
    total = rng.randint(2, 12 if packed else 60)
    operands = [total]
    for index, operator in enumerate(operators):
        operand = rng.randint(2, {"+": 60, "-": max(total - 2, 2), "*": 12 if index == 0 else 4}[operator])
        total = _apply(total, operator, operand)
        if not 2 <= total <= LARGEST:
            return None
        operands.append(operand)
    return Sum(tuple(operands), operators)


def _tell(rng: random.Random, numbers: Sum) -> Problem:
    name, friend = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    box, boxes = rng.choice(BOXES)
    words = {"name": name, "friend": friend, "things": things, "box": box, "boxes": boxes}
    total, *rest = numbers.operands
    packed = numbers.operators[0] == "*"
    question = [] if packed else [rng.choice(STARTS).format(a=total, **words)]
    answer = []
    for operator, operand in zip(numbers.operators, rest, strict=True):
        opening = packed and not question
        story = PACKED_STARTS if opening else EVENTS[operator]
        question.append(rng.choice(story).format(a=total, b=operand, **words))
        step = ("{name} starts with" if opening else rng.choice(STEPS)).format(**words)
        equation = f"{total}{operator}{operand}"
        total = _apply(total, operator, operand)
        answer.append(f"{step} {equation}=<<{equation}={total}>>{total} {things}.")
    question.append(rng.choice(QUESTIONS).format(**words))
    return Problem(" ".join(question), "\n".join([*answer, f"#### {total}"]), total)


def _apply(total: int, operator: str, operand: int) -> int:
    return {"+": total + operand, "-": total - operand, "*": total * operand}[operator]
