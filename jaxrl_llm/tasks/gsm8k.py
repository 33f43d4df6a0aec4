"""GSM8K and what is written like it: JSON lines of {question, answer}, the answer's number after "####".

A row of it:

    {"question": "Weng earns $12 an hour ... How much did she earn?",
     "answer": "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\\nWorking 50 minutes, she ...\\n#### 10"}
"""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema
from jaxrl_llm.tasks.numbers import final_number
from jaxrl_llm.tasks.task import Example, Split, Task, grade_number


@schema
class Gsm8kConfig:
    """Problems from files of JSON lines, as GSM8K's."""

    kind: Literal["gsm8k"] = "gsm8k"
    path: str
    """The .jsonl file of problems to train on."""
    test_path: str | None = None
    """The one of problems to test on."""


def build(config: Gsm8kConfig) -> Task:
    """The task.  The files are read when their problems are first asked for."""

    @cache
    def rows(split: Split) -> list[Example]:
        path = config.path if split == "train" else config.test_path
        if path is None:
            raise UserError("the task gsm8k has no problems to test on\n  mend: set its `test_path`")
        return read(Path(path))

    def examples(split: Split, n: int, seed: int) -> list[Example]:
        """In another order for another seed.  Training goes on with a new order after the last; a test does not."""
        found = rows(split)
        if split == "test" and n > len(found):
            raise UserError(f"{config.test_path}: {n:,} problems are asked for, and it has {len(found):,}")
        rng, order = random.Random(f"{seed}/{split}"), list[Example]()
        while len(order) < n:
            order += rng.sample(found, len(found))
        return order[:n]

    return Task("gsm8k", examples, lambda split: len(rows(split)), grade_number, final_number)


def read(path: Path) -> list[Example]:
    """All problems of a file.

    Raises:
        UserError: it cannot be read, a row is of another form, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8, at byte {error.start:,}") from error
    found = [_example(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path}: there is no problem in it\n  mend: a row a line, {{question, answer}}")
    return found


def _example(line: str, origin: str) -> Example:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not a JSON row: {error}\n  mend: each line is one JSON object") from error
    said = [row.get(name) if isinstance(row, dict) else None for name in ("question", "answer")]
    question, answer = (each if isinstance(each, str) and each.strip() else None for each in said)
    if question is None or answer is None:
        raise UserError(f"{origin}: expected an object with the texts `question` and `answer`, found {row!r:.200}")
    value = final_number(answer)
    if value is None:
        raise UserError(f'{origin}: no number after "####" in the answer, which ends with {answer[-80:]!r}')
    return Example(question, answer, value, origin)
