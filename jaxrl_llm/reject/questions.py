"""What is asked, once for all models; and how each of them reads it."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxrl_llm.data.chat import Template, chat_stop_ids, tokenize_prompt
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Conversation, Message
from jaxrl_llm.data.prompts import Prompt as Said
from jaxrl_llm.data.prompts import as_conversations, ask, read_prompt_rows
from jaxrl_llm.data.read_examples import read_examples
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.config import QuestionsConfig, SourceConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.tasks import build_task

Shots = Sequence[Sequence[Message]]  # conversations


def open_questions(config: QuestionsConfig) -> list[Prompt]:
    """What is asked, in order and each once, without the ids of any model.

    Raises:
        UserError: the file or the task has none, or one is empty.
    """
    if config.task is not None:
        examples = build_task(config.task).examples("train", config.problems, config.problems_seed)
        return _once(Prompt((), each.prompt, each.origin, example=each) for each in examples)
    if config.path is None:
        return []
    rows = read_prompt_rows(Path(config.path))[: config.limit]
    for row in rows:
        if not row.prompt:
            raise UserError(f"{row.origin}: the prompt is empty: it needs at least one token")
    return _once(Prompt((), said(row.prompt, config.chat), row.origin, row.safety) for row in rows)


def _once(prompts: Iterable[Prompt]) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(key_of(prompt.said), prompt)
    return [*found.values()]


def key_of(said: Said) -> str:
    """What tells a prompt from others."""
    return json.dumps(said, sort_keys=True)


def are_said(config: QuestionsConfig) -> bool:
    """Whether a prompt that is text is what a user says: of a task, all are."""
    return config.chat or config.task is not None


def said(prompt: Said, chat: bool) -> Said:
    """A prompt; with `chat` what is text is what a user says."""
    return as_conversations([prompt])[0] if chat else prompt


def open_shots(model: SourceConfig, questions: QuestionsConfig) -> Shots:
    """The worked examples that a model is shown before each prompt: the first of its file, or others of the task.

    One more than it is shown, if there is one: see `with_shots`.

    Raises:
        UserError: there are not so many, or a row is no conversation.
    """
    if not model.shots:
        return []
    if model.examples is None:
        assert questions.task is not None, "the checks of the config have looked"
        worked = build_task(questions.task).examples("train", model.shots + 1, questions.problems_seed + 1)
        return [(*each.prompt, {"role": "assistant", "content": each.answer}) for each in worked]
    examples = read_examples(ExamplesConfig(path=model.examples), "conversation")
    shots = [each.messages for each in itertools.islice(examples, model.shots + 1) if isinstance(each, Conversation)]
    if len(shots) < model.shots:
        raise UserError(
            f"{model.examples}: {model.shots} shots are asked for, and it has {len(shots)} examples\n"
            "  mend: fewer shots, or more examples"
        )
    return shots


class AsRead(NamedTuple):
    """What is asked as a model reads it."""

    prompts: list[Prompt | None]  # with its ids; None: too long, and left out
    stop_ids: frozenset[int]  # its end tokens


def as_read(
    questions: Sequence[Prompt],
    tokenizer: Tokenizer,
    template: Template,
    shots: Shots,
    *,
    n_shots: int,
    longest: int,
    overlong: str,
) -> AsRead:
    """The prompts with the ids that a model reads.

    Args:
        questions: what is asked.
        tokenizer: the model's.
        template: the model's.
        shots: of which each prompt that is a conversation is preceded, after its system message.
        n_shots: by so many.
        longest: tokens of a prompt that leave room for the longest answer.
        overlong: "stop" or "drop" a longer one.

    Raises:
        UserError: one is too long, all are, the template refuses one, or there are shots for text.
    """
    text = isinstance(questions[0].said, str)
    if shots and text:
        raise UserError("shots are shown in conversations, and the prompts are text to go on with")
    found: list[Prompt | None] = []
    for prompt in questions:
        try:
            if isinstance(prompt.said, str):
                ids = ask([prompt.said], tokenizer, template).ids[0]
            else:
                ids = tokenize_prompt(tokenizer, template, with_shots(prompt.said, shots, n_shots))
        except UserError as error:
            raise UserError(f"{prompt.origin}: {error}") from error
        if len(ids) > longest and overlong == "stop":
            raise UserError(
                f"{prompt.origin}: the prompt has {len(ids)} tokens, and {max(longest, 0)} is the most, which leaves "
                "room for the longest answer\n"
                "  mend: prompts.overlong=drop leaves such prompts out; or fewer sampling.max_new_tokens, or shots"
            )
        found.append(replace(prompt, ids=tuple(ids)) if len(ids) <= longest else None)
    if not any(found):
        raise UserError(
            f"none of the {len(found)} prompts has at most {max(longest, 0)} tokens, which leaves room for the longest "
            "answer\n  mend: other prompts, or fewer sampling.max_new_tokens"
        )
    return AsRead(found, tokenizer.stop_ids if text else chat_stop_ids(tokenizer, template))


def with_shots(said: Sequence[Message], shots: Shots, n: int) -> list[Message]:
    """A conversation with the first `n` worked examples before it that do not answer its own last question.

    What the system says in it stays in front, and what it says in them is left out.
    """
    n_system = int(said[0]["role"] == "system")
    others = [shot for shot in shots if all(message["content"] != said[-1]["content"] for message in shot)]
    shown = [message for shot in others[:n] for message in shot if message["role"] != "system"]
    return [*said[:n_system], *shown, *said[n_system:]]
