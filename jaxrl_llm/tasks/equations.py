"""Equations in worked answers, "<<48/2=24>>": found, evaluated exactly and compared with what they say.  No eval.

As in GSM8K: + - * / and // (rounded down), signs, brackets, decimals that may begin with a dot; and what models write
besides: dollar signs, commas between thousands, percents.  A result is right within 1e-3, exclusive, so that each
annotation of GSM8K's training rows is right and none is with another digit in its result.
"""

import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from jaxrl_llm.tasks.numbers import NUMBER, unsigned

TOLERANCE = Fraction(1, 1000)
LONGEST = 200  # characters of a side that is meant as one; GSM8K's have up to 34, and deep brackets would recurse

_ANNOTATION = re.compile(r"<<(.*?)>>")
_TOKEN = re.compile(rf"\s*(?:\$?(?P<number>{NUMBER})(?P<percent>%?)|(?P<sign>//|[-+*/()]))\s*", re.ASCII)
_APPLY: Mapping[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
}
_BINDS: Mapping[Fraction | str, int] = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2}  # how tightly
_SIGN_BINDS = 3
_END = ""


class Equation(NamedTuple):
    """What stands between << and >>."""

    text: str  # without spaces, "48/2=24": the list of these tells one way to an answer from another
    right: bool


def check(text: str) -> list[Equation]:
    """All annotations of a text in order; what cannot be read as an equation is not right."""
    return [Equation("".join(each.split()), is_right(each)) for each in _ANNOTATION.findall(text)]


def is_right(annotation: str) -> bool:
    """Whether the left side of "48/2=24" is the number on the right.  Never raises."""
    left, _, right = annotation.rpartition("=")
    try:
        return abs(evaluate(left) - _result(right)) < TOLERANCE
    except (ValueError, ZeroDivisionError):
        return False


def evaluate(expression: str) -> Fraction:
    """The exact value of "2*(3+.5)", by precedence climbing.

    Raises:
        ValueError: it is no expression, or longer than LONGEST.
        ZeroDivisionError: it divides by zero.
    """
    tokens = _tokens(expression)
    value = _climb(tokens, 0)
    _expect(tokens, _END)
    return value


def _climb(tokens: list[Fraction | str], floor: int) -> Fraction:
    """Takes the longest expression off the front of the tokens whose operators bind at least as tightly as `floor`."""
    token = tokens.pop(0)
    if isinstance(token, Fraction):
        left = token
    elif token == "(":
        left = _climb(tokens, 0)
        _expect(tokens, ")")
    elif token in ("+", "-"):
        operand = _climb(tokens, _SIGN_BINDS)
        left = -operand if token == "-" else operand
    else:
        raise ValueError(f"a number should stand before {token!r}")
    while (binds := _BINDS.get(tokens[0], -1)) >= floor:
        apply = _APPLY[str(tokens.pop(0))]
        left = Fraction(apply(left, _climb(tokens, binds + 1)))
    return left


def _result(text: str) -> Fraction:
    """A number, or its negative: if a result could be an expression, every "48/2=48/2" would be right."""
    match _tokens(text):
        case [Fraction() as number, ""]:
            return number
        case ["-", Fraction() as number, ""]:
            return -number
    raise ValueError(f"not a number: {text}")


def _tokens(text: str) -> list[Fraction | str]:
    """Numbers and signs in order, then the end."""
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    tokens: list[Fraction | str] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"neither number nor operator: {text[place:]}")
        number = found["number"]
        tokens.append(found["sign"] if number is None else unsigned(number) / (100 if found["percent"] else 1))
        place = found.end()
    return [*tokens, _END]


def _expect(tokens: list[Fraction | str], wanted: str) -> None:
    if tokens.pop(0) != wanted:
        raise ValueError(f"{wanted or 'the end'} is missing")
