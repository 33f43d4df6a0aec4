"""Prompts that a model answers: text that it goes on with, or conversations in which it is the assistant's turn.

{"prompt": "Once upon a time"}
{"prompt": [{"role": "user", "content": "2+2?"}]}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]}
{"instruction": "Add.", "input": "2+2"}

The columns are those of `row_formats`.  A `prompt` that is a string is text, but with a `system` beside it; all else is
a conversation.  Columns besides the prompt (an answer, say) are not read.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_llm.data.chat import Template, chat_stop_ids, tokenize_prompt
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Message
from jaxrl_llm.data.read_examples import ENDINGS, inputs_of
from jaxrl_llm.data.records import parse_row, read_records
from jaxrl_llm.data.row_parts import prompt_of
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError

Prompt = str | tuple[Message, ...]


class PromptRow(NamedTuple):
    """A prompt of a file."""

    prompt: Prompt
    origin: str  # "file:line"
    safety: bool  # it is about safety, as a column of that name says


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in order: see `read_prompt_rows`."""
    return [row.prompt for row in read_prompt_rows(path)]


def read_prompt_rows(path: Path) -> list[PromptRow]:
    """The prompts of a file, in order: of rows (.jsonl, .json, .parquet, ...), or of any other file a line each.

    Raises:
        UserError: it is missing, empty or no text, or a row is no prompt; with file:line.
    """
    if not path.is_file():
        raise UserError(f"{path}: cannot be read: no such file")
    if path.name.endswith(tuple(ENDINGS)):
        records = (record for item in inputs_of(ExamplesConfig(path=str(path))) for record in read_records(item))
        found = [prompt_row(parse_row(record), record.origin) for record in records]
    else:
        try:
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        found = [PromptRow(line, f"{path}:{number}", safety=False) for number, line in enumerate(lines, 1)]
    if not any(row.prompt for row in found):
        raise UserError(f"{path}: there is no prompt in it")
    return found


def as_conversations(prompts: Iterable[Prompt], system: str | None = None) -> list[tuple[Message, ...]]:
    """Prompts that are text as what a user says; `system` is said first in those that have no such message."""
    found = []
    for prompt in prompts:
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        if system is not None and messages[0]["role"] != "system":
            messages = ({"role": "system", "content": system}, *messages)
        found.append(messages)
    return found


def conversations_alone(prompts: Sequence[Prompt]) -> bool:
    """Whether all prompts are conversations; or all text.  Raises UserError where they are mixed."""
    kinds = {isinstance(prompt, str) for prompt in prompts}
    if len(kinds) > 1:
        text = next(prompt for prompt in prompts if isinstance(prompt, str))
        raise UserError(
            f"some prompts are conversations, and others text to go on with: {text!r:.60}\n"
            "  mend: write all of them alike, or ask for them apart; of `generate`, --chat takes each text as a user's"
        )
    return kinds == {False}


class Asked(NamedTuple):
    """Prompts as a model reads them."""

    ids: list[list[int]]
    stop_ids: frozenset[int]  # that end a completion


def ask(prompts: Sequence[Prompt], tokenizer: Tokenizer, template: Template) -> Asked:
    """Text as it is; conversations by the template, up to where the assistant's turn begins.

    Raises:
        UserError: the template refuses the messages.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if texts:
        return Asked([tokenizer.encode_prompt(text) or [tokenizer.bos_id] for text in texts], tokenizer.stop_ids)
    ids = [tokenize_prompt(tokenizer, template, prompt) for prompt in prompts if not isinstance(prompt, str)]
    return Asked(ids, chat_stop_ids(tokenizer, template))


def written(prompt: Prompt, tokens: Sequence[int], tokenizer: Tokenizer, stop_ids: frozenset[int]) -> str:
    """The text of a completion; an answer without white space around it, as templates have it, nor its end token."""
    if isinstance(prompt, str):
        return tokenizer.decode(tokens, continued=bool(prompt))
    return tokenizer.decode(tokens[:-1] if tokens[-1] in stop_ids else tokens, continued=True).strip()


def prompt_row(row: dict[str, Any], origin: str) -> PromptRow:
    """The prompt of one row, whatever stands beside it.  Raises UserError, with the origin: it has none."""
    row = {name: value for name, value in row.items() if value is not None}
    safety = row.get("safety", False)
    if not isinstance(safety, bool):
        raise UserError(f"{origin}: `safety` says true or false, not {safety!r:.80}")
    if isinstance(row.get("prompt"), str) and not row.get("system"):
        return PromptRow(row["prompt"], origin, safety)
    try:
        messages = prompt_of(row)
    except UserError as error:
        raise UserError(f'{origin}: {error}\n  mend: a row like {{"prompt": "..."}}, or with messages') from error
    if messages[-1]["role"] == "assistant":
        raise UserError(f"{origin}: the assistant's turn is the last one already, so there is nothing to answer")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise UserError(f"{origin}: no user says anything last, so there is nothing to answer")
    return PromptRow(messages, origin, safety)
