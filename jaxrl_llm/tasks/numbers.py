"""Numbers as answers have them, "$1,234.50" for one, and the number that an answer ends with.  Exact fractions."""

import re
from fractions import Fraction

LONGEST = 100  # characters of a number that is meant as one
# Digits, grouped by commas or not, a fraction, a trailing dot; what follows must not go on with digits ("12,34").
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?![.,]?\d)"
_SIGNED = re.compile(rf"\s*(\$-|-?\$?)({NUMBER})", re.ASCII)


def leading_number(text: str) -> Fraction | None:
    """The number that a text begins with, whatever unit comes after it; None where it begins with none.

    >>> leading_number(" -$1,234.50 in all")
    Fraction(-2469, 2)
    """
    found = _SIGNED.match(text)
    if found is None or len(found[2]) > LONGEST:
        return None
    number = unsigned(found[2])
    return -number if "-" in found[1] else number


def unsigned(digits: str) -> Fraction:
    """The value of what NUMBER matched."""
    return Fraction(digits.replace(",", ""))


def final_number(completion: str) -> Fraction | None:
    """The number after the last "####", with which GSM8K's answers end; None where there is none."""
    _, mark, tail = completion.rpartition("####")
    return leading_number(tail) if mark else None
