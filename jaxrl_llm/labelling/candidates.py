"""What people are asked to compare: prompts with two or more answers, from the rows of a file."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Answer, Comparison, Conversation, Message
from jaxrl_llm.data.read_examples import inputs_of
from jaxrl_llm.data.records import parse_row, read_records
from jaxrl_llm.data.row_formats import recognise
from jaxrl_llm.errors import UserError

ROWS = """rows that can be labelled are
        {"prompt": ..., "answers": [..., ...]}            two or more answers; "models": [..., ...] may say whose
        {"prompt": ..., "completion": ...}                several rows with one prompt, as `generate --n 2` writes
        {"prompt": ..., "chosen": ..., "rejected": ...}   compared already, to be labelled anew"""
JOINERS = "\u200c\u200d"  # of emoji and of many scripts: invisible, but a part of the writing


@dataclass(frozen=True)
class Item:
    """A prompt and its answers; of those that look alike the first, and none that is empty: nothing trains on these."""

    id: str  # the row's own, else a hash of the prompt and its answers
    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]  # fewer than two: there is nothing to choose
    sources: tuple[int, ...]  # number of each answer in its row, from 0; of a pair, 0 was chosen
    models: tuple[str, ...] | None  # that wrote each answer; "a = b" where two wrote the same
    tags: Mapping[str, Any]  # columns that travel with the row: safety, subset
    origin: str  # "file:line"


class Candidates(NamedTuple):
    """The items of a file in order, each once."""

    items: list[Item]
    repeated: int  # rows left out, as the same prompt and answers came before


@dataclass
class _Group:
    """A prompt with its answers, all of one row, or of several with an answer each."""

    origin: str
    prompt: tuple[Message, ...]
    answers: list[Answer]
    models: list[str | None]
    tags: dict[str, Any]
    id: str | None

    def item(self) -> Item:
        if len(self.answers) < 2:
            raise UserError(
                f"{self.origin}: one answer alone to this prompt, nothing to compare it with\n"
                "  mend: sample more (`generate --n 2`), or leave the row out"
            )
        alike: dict[str, list[int]] = {}
        for i, answer in enumerate(self.answers):
            if text := shown(answer):
                alike.setdefault(text, []).append(i)
        models = [" = ".join(str(self.models[i]) for i in same) for same in alike.values()]
        content = json.dumps([self.prompt, self.answers], sort_keys=True)
        return Item(
            id=self.id or hashlib.sha256(content.encode()).hexdigest()[:16],
            prompt=self.prompt,
            answers=tuple(self.answers[same[0]] for same in alike.values()),
            sources=tuple(same[0] for same in alike.values()),
            models=None if None in self.models else tuple(models),
            tags=self.tags,
            origin=self.origin,
        )


def read_candidates(path: Path) -> Candidates:
    """What a file asks to compare; it may be stored as, and its rows written as, those of any data of preferences.

    >>> {"prompt": "2+2?", "answers": ["4", "5", "four"], "models": ["a", "b", "a"], "id": "sum-1"}

    Raises:
        UserError: it is missing or empty, or a row is not of the form; with file:line.
    """
    groups: dict[str, _Group] = {}  # those of several rows by their prompt, others by where they stand
    for group in _read_groups(path):
        if len(group.answers) > 1:
            groups[group.origin] = group
            continue
        first = groups.setdefault(json.dumps(group.prompt, sort_keys=True), group)
        if first is not group:
            first.answers += group.answers
            first.models += group.models
    items: dict[str, Item] = {}
    for item in (group.item() for group in groups.values()):
        first_item = items.setdefault(item.id, item)
        if (first_item.prompt, first_item.answers) != (item.prompt, item.answers):
            raise UserError(
                f"{item.origin}: the id {item.id!r} is that of {first_item.origin} already, with another content\n"
                "  mend: another id, or none"
            )
    if not items:
        raise UserError(f"{path}: there is no row in it\n  mend: {ROWS}")
    return Candidates(list(items.values()), repeated=len(groups) - len(items))


def shown_order(seed: int, item: Item) -> list[int]:
    """Numbers of the answers in the order they are shown: by chance, but always the same for a seed and an item."""

    def chance(number: int) -> bytes:
        return hashlib.sha256(json.dumps([seed, item.id, number]).encode()).digest()

    return sorted(range(len(item.answers)), key=chance)


def shown(messages: Sequence[Message]) -> str:
    r"""Messages as a person sees them, with what a terminal would obey instead of showing it escaped.

    >>> shown([{"role": "assistant", "content": "Hello\x1b[2J "}])
    'Hello\\x1b[2J'
    """
    text = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
    if len(messages) == 1 and messages[0]["role"] != "system":  # then who speaks is plain
        text = messages[0]["content"]
    plain = text.replace("\r\n", "\n").rstrip()
    return "".join(ascii(c)[1:-1] if _obeyed(c) else c for c in plain)


def _obeyed(c: str) -> bool:
    """Whether it is a control character, one that turns the direction of writing, or a broken one."""
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in f"\n\t{JOINERS}"


def _read_groups(path: Path) -> Iterator[_Group]:
    """Every row by itself."""
    for found in inputs_of(ExamplesConfig(path=str(path))):
        for record in read_records(found):
            origin = record.origin
            row = {name: value for name, value in parse_row(record).items() if value is not None}
            form = recognise(row)
            try:
                example = form.read(row, origin) if form else None
                if not isinstance(example, Comparison | Conversation):
                    raise UserError(f"the columns are {', '.join(row) or 'none'}\n  mend: {ROWS}")
                yield _group(row, example)
            except UserError as error:
                raise UserError(f"{origin}: {error}") from error


def _group(row: Mapping[str, Any], example: Comparison | Conversation) -> _Group:
    own_id = str(row["id"]) if isinstance(row.get("id"), str | int) else None
    if isinstance(example, Conversation):
        model = row.get("model")
        if not isinstance(model, str | None):
            raise UserError(f"`model`: expected a name, found {json.dumps(model)}")
        return _Group(example.origin, example.messages[:-1], [example.messages[-1:]], [model], {}, None)
    n = len(example.answers)
    models = row.get("models", [None] * n)
    if not isinstance(models, list) or len(models) != n or not all(isinstance(name, str | None) for name in models):
        raise UserError(f"`models`: expected {n} names, one an answer, found {json.dumps(models)}")
    tags = {key: row[key] for key in ("safety", "subset") if key in row}
    return _Group(example.origin, example.prompt, list(example.answers), models, tags, own_id)
