"""Candidates from files: answers made elsewhere, or the pool of an earlier `reject`."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.prompts import Prompt, prompt_row
from jaxrl_llm.data.read_examples import inputs_of
from jaxrl_llm.data.records import parse_row, read_records
from jaxrl_llm.data.row_parts import ANSWER, ANSWERS, Row, needed, present
from jaxrl_llm.data.turns import misfit, number_of, text_of
from jaxrl_llm.errors import UserError

POOL = "pool.jsonl"  # of a run of `reject`
ROWS = """rows of candidates are
        {"prompt": ..., "answers": [..., ...]}   and, a list of as many, null where it is not known:
                                                 "models", "scores", "right", "ended", "tokens"
        {"prompt": ..., "completion": ...}       as `generate --out` writes: rows with one prompt belong together"""


@dataclass(frozen=True)
class Answer:
    """One that somebody gave, and what is known of it."""

    text: str  # as sampled: it may be empty
    model: str | None = None  # who
    score: float | None = None
    right: bool | None = None
    ended: bool | None = None  # by itself, not by the limit
    tokens: int | None = None


@dataclass(frozen=True)
class Group:
    """A prompt, and all answers to it."""

    prompt: Prompt
    answers: tuple[Answer, ...]  # one or more, in the order of the file
    origin: str  # "file:line" of the first
    safety: bool = False  # the prompt is about safety


def read_candidates(path: Path) -> list[Group]:
    """The candidates of a file, or of the run directory of a `reject`; each prompt once, as it comes first.

    >>> {"prompt": "2+2?", "answers": ["4", "5"], "models": ["a", "b"], "scores": [1.2, -0.3], "right": [true, false]}
    >>> {"prompt": "2+2?", "completion": "4", "model": "a", "ended": true, "tokens": [29946, 2]}

    Raises:
        UserError: it is missing or empty, or a row is not of the form; with file:line.
    """
    file = path / POOL if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{file}: cannot be read: no such file\n  mend: a file of candidates, or the directory of a `reject` run"
        )
    groups: dict[str, Group] = {}
    for item in inputs_of(ExamplesConfig(path=str(file))):
        for record in read_records(item):
            group = _group(parse_row(record), record.origin)
            said = json.dumps(group.prompt, sort_keys=True)
            first = groups.get(said)
            groups[said] = group if first is None else replace(first, answers=first.answers + group.answers)
    if not groups:
        raise UserError(f"{file}: there is no row in it\n  mend: {ROWS}")
    return [*groups.values()]


def join_runs(runs: Mapping[str, Sequence[Group]]) -> list[Group]:
    """The pools of earlier runs as one, whose models are called RUN/NAME from now on.

    Each answer is there once, though a later run's pool may hold those of a run before it.
    """
    found: dict[str, Group] = {}
    for run, groups in runs.items():
        for group in groups:
            said = json.dumps(group.prompt, sort_keys=True)
            first = found.get(said, replace(group, answers=()))
            there = Counter((each.model, each.text) for each in first.answers)
            new = []
            for answer in group.answers:
                name = answer.model or "candidates"
                named = replace(answer, model=name if "/" in name else f"{run}/{name}")
                there[named.model, named.text] -= 1
                if there[named.model, named.text] < 0:
                    new.append(named)
            found[said] = replace(first, answers=first.answers + tuple(new))
    return [*found.values()]


def _group(row: dict[str, Any], origin: str) -> Group:
    asked = prompt_row(row, origin)
    try:
        answers = _answers({name: value for name, value in row.items() if value is not None})
        return Group(asked.prompt, answers, origin, asked.safety)
    except UserError as error:
        raise UserError(f"{origin}: {error}\n  mend: {ROWS}") from error


def _answers(row: Row) -> tuple[Answer, ...]:
    column = needed(row, (*ANSWERS, *ANSWER))
    if present(row, ANSWERS) is None:
        known = {part: read(row[part], part) for part, read in PARTS.items() if part in row}
        return (Answer(text_of(row[column], column), **known),)
    texts = row[column]
    if not isinstance(texts, list) or not texts:
        misfit(column, "a list of answers, one or more", texts)
    columns = [_known(row, part, len(texts)) for part in PARTS]
    return tuple(
        Answer(text_of(text, f"{column}[{i}]"), *known)
        for i, (text, *known) in enumerate(zip(texts, *columns, strict=True))
    )


def _known(row: Row, part: str, n: int) -> list[Any]:
    """What a row says of each answer."""
    column = LISTS.get(part, part)
    found = row.get(column, [None] * n)
    if not isinstance(found, list) or len(found) != n:
        misfit(column, f"a list of {n}, one for each answer", found)
    return [None if each is None else PARTS[part](each, f"{column}[{i}]") for i, each in enumerate(found)]


def _flag(value: Any, column: str) -> bool:
    if not isinstance(value, bool):
        misfit(column, "true or false", value)
    return bool(value)


def _count(value: Any, column: str) -> int:
    """A number of tokens, or of those that are listed."""
    found = len(value) if isinstance(value, list) else value
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        misfit(column, "a number of tokens, or a list of them", value)
    return int(found)


PARTS: Mapping[str, Callable[[Any, str], Any]] = {  # of an answer besides its text, in the order of its fields
    "model": text_of,
    "score": number_of,
    "right": _flag,
    "ended": _flag,
    "tokens": _count,
}
LISTS = {"model": "models", "score": "scores"}  # columns of several answers that are not named as that of one
