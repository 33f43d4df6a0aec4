"""Word problems in words: the numbers of a problem told as a question and its worked answer, in many ways."""

import random
from fractions import Fraction

from jaxrl_llm.tasks.task import Example
from jaxrl_llm.tasks.worked import Compute, Line, Sum, exact, work

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
TOGETHER, CHANGES = "Both together make", {"+": "more", "-": "fewer"}


def tell(
    rng: random.Random,
    numbers: Sum,
    compute: Compute = exact,
    origin: str = "",
    ways: random.Random | None = None,
) -> Example:
    """One problem.  Its value is right, whatever the author computes; `compute` and `ways` are those of `work`."""
    name, friend = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    box, boxes = rng.choice(BOXES)
    words = {"name": name, "friend": friend, "things": things, "box": box, "boxes": boxes}
    value = numbers.operands[0]
    packed = numbers.operators[0] == "*"  # "3 bags with 6 shells in each"
    question = [] if packed else [rng.choice(STARTS).format(a=value, **words)]
    answer = []
    lines = list(work(numbers, compute, ways))
    for (operator, operand), line in zip(numbers.steps, lines, strict=True):
        opening = packed and not question
        story = PACKED_STARTS if opening else EVENTS[operator]
        question.append(rng.choice(story).format(a=value, b=operand, **words))
        step = ("{name} starts with" if opening else rng.choice(STEPS)).format(**words)
        value = exact(value, operator, operand)
        answer.append(_sentence(step, line, things))
    question.append(rng.choice(QUESTIONS).format(**words))
    return Example(" ".join(question), "\n".join([*answer, f"#### {lines[-1].result}"]), Fraction(value), origin)


def _sentence(step: str, line: Line, things: str) -> str:
    worked = ", then ".join(f"{said}=<<{said}={result}>>{result}" for said, result in line.equations)
    if line.change is not None:
        return f"{TOGETHER} {worked} {CHANGES[line.change]} {things}."
    return f"{step} {worked} {things}."
