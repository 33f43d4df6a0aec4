"""Items, rows and replies that these tests are made of."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxrl_llm.data.examples import Message
from jaxrl_llm.labelling.candidates import Candidates, Item, read_candidates

USER = [{"role": "user", "content": "Name a river."}]


def says(text: str, role: str = "assistant") -> tuple[Message, ...]:
    return ({"role": role, "content": text},)


def item(answers: Iterable[str] = ("a", "b"), id: str = "i", models: tuple[str, ...] | None = None) -> Item:
    said = tuple(says(answer) for answer in answers)
    return Item(id, says("p", "user"), said, tuple(range(len(said))), models, {}, "f:1")


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(tmp_path: Path, *rows: object) -> Candidates:
    return read_candidates(write(tmp_path / "c.jsonl", *rows))


def replies(*lines: str) -> Callable[[str, str], str]:
    """An `Ask` that gives these lines one after the other."""
    waiting = iter(lines)
    return lambda question, wrong: next(waiting)
