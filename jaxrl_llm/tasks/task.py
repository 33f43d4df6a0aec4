"""What a task is: examples, a way to read an answer off a completion, and a grade for it.  No JAX."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks.numbers import final_number

Split = Literal["train", "test"]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Example:
    """A question with its answer.

    >>> Example("Tom had 3 nuts and ate 2. How many are left?", "Left are 3-2=<<3-2=1>>1.\\n#### 1", Fraction(1), "a:7")
    """

    question: str
    answer: str  # worked by its author, "#### value" at the end
    value: Fraction  # the right one
    origin: str = ""  # "file:line", or what to generate it from again

    @property
    def prompt(self) -> tuple[Mapping[str, str], ...]:
        """As messages, for a chat template."""
        return ({"role": "user", "content": self.question},)

    @property
    def text(self) -> str:
        """As raw text that a pretrained model goes on with; the documents of `tasks.corpus` have the same form."""
        return f"Question: {self.question}\nAnswer:"


@dataclass(frozen=True)
class Task:
    """Pure functions, built once from a config by `tasks.build_task`."""

    name: str
    examples: Callable[[Split, int, int], list[Example]]
    """examples(split, n, seed): `n` of them, the same ones for the same arguments; UserError where that cannot be."""
    size: Callable[[Split], int | None]
    """size(split): how many different ones there are; None: without end."""
    grade: Callable[[str, Example], float]
    """grade(completion, example): the reward, 1.0 for a right answer and 0.0 for a wrong one."""
    parse: Callable[[str], Hashable | None]
    """parse(completion): the answer that was read off it, which others are compared with in a vote; None: no answer."""


def grade_number(completion: str, example: Example) -> float:
    """1.0 if the number after the last "####" is the example's value, exactly, else 0.0."""
    return float(final_number(completion) == example.value)


def grade_all(task: Task, completions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """The grades of B completions, each of its example: float32 [B], finite.

    Raises:
        UserError: the grader failed, or gave something else than a finite number; the row is named.
    """
    return np.array(
        [_checked(task, row, *each) for row, each in enumerate(zip(completions, examples, strict=True))], np.float32
    )


def _checked(task: Task, row: int, completion: str, example: Example) -> float:
    try:
        grade: Any = task.grade(completion, example)
    except Exception as error:
        raise _refused(task, row, completion, example, f"failed: {type(error).__name__}: {error}") from error
    if not isinstance(grade, int | float | np.floating | np.integer) or isinstance(grade, bool):
        raise _refused(task, row, completion, example, f"gave {grade!r:.80}, which is no number")
    if not -_LARGEST <= grade <= _LARGEST:
        raise _refused(task, row, completion, example, f"gave {grade!r:.80}, which is not finite in float32")
    return float(grade)


def _refused(task: Task, row: int, completion: str, example: Example, what: str) -> UserError:
    return UserError(
        f"the grader of {task.name} {what}\n"
        f"  row {row}, {example.origin or example.question[:80]}: {completion[:200]!r}\n"
        "  mend: a grader returns one finite number for every text that a model may write"
    )
