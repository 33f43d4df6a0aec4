"""What is asked, once for all models; and how each of them reads it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxrl_llm.data.chat import Template, chat_stop_ids, tokenize_prompt
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Conversation, Message
from jaxrl_llm.data.prompts import Prompt as Said
from jaxrl_llm.data.prompts import as_conversations, ask, conversations_alone, read_prompt_rows
from jaxrl_llm.data.read_examples import inputs_of
from jaxrl_llm.data.records import parse_row, read_records
from jaxrl_llm.data.row_formats import recognise
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.config import QuestionsConfig, SourceConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.tasks import build_task

Shots = Sequence[Message]  # questions and answers in turn, before the prompt


def open_questions(config: QuestionsConfig) -> list[Prompt]:
    """What is asked, in order, without the ids of any model.

    Raises:
        UserError: the file or the task has none, or the file's are partly text and partly conversations.
    """
    if config.task is not None:
        examples = build_task(config.task).examples("train", config.problems, config.problems_seed)
        return [Prompt((), each.prompt, each.origin, example=each) for each in examples]
    if config.path is None:
        return []
    rows = read_prompt_rows(Path(config.path))[: config.limit]
    for row in rows:
        if not row.prompt:
            raise UserError(f"{row.origin}: the prompt is empty: it needs at least one token")
    found = [Prompt((), said(row.prompt, config.chat), row.origin, row.safety) for row in rows]
    conversations_alone([prompt.said for prompt in found])
    return found


def said(prompt: Said, chat: bool) -> Said:
    """A prompt; with `chat` what is text is what a user says."""
    return as_conversations([prompt])[0] if chat else prompt


def open_shots(model: SourceConfig, questions: QuestionsConfig) -> list[Message]:
    """The worked examples that a model is shown before each prompt: the first of its file, or others of the task.

    Raises:
        UserError: there are not so many, or a row is no conversation.
    """
    if not model.shots:
        return []
    if model.examples is None:
        assert questions.task is not None, "the checks of the config have looked"
        worked = build_task(questions.task).examples("train", model.shots, questions.problems_seed + 1)
        turns = [(each.question, each.answer) for each in worked]
        return [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    found: list[Message] = []
    count = 0
    for item in inputs_of(ExamplesConfig(path=model.examples)):
        for record in read_records(item):
            row = parse_row(record)
            form = recognise(row)
            example = form.read(row, record.origin) if form else None
            if not isinstance(example, Conversation):
                raise UserError(f"{record.origin}: no conversation to show\n  mend: rows {{prompt, completion}}")
            found += example.messages
            count += 1
            if count == model.shots:
                return found
    raise UserError(f"{model.examples}: {model.shots} shots are asked for, and it has {count} examples")


def as_read(
    questions: Sequence[Prompt],
    tokenizer: Tokenizer,
    template: Template,
    shots: Shots,
    *,
    longest: int,
    overlong: str,
) -> tuple[list[Prompt | None], frozenset[int]]:
    """The prompts with the ids that a model reads, None where one is too long and left out; and its end tokens.

    Args:
        questions: what is asked.
        tokenizer: the model's.
        template: the model's.
        shots: before each prompt that is a conversation, after its system message.
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
                ids = tokenize_prompt(tokenizer, template, with_shots(prompt.said, shots))
        except UserError as error:
            raise UserError(f"{prompt.origin}: {error}") from error
        if len(ids) > longest and overlong == "stop":
            raise UserError(
                f"{prompt.origin}: the prompt has {len(ids)} tokens, and with the longest answer {longest} is the "
                "most\n  mend: prompts.overlong=drop leaves such prompts out; or fewer sampling.max_new_tokens or shots"
            )
        found.append(replace(prompt, ids=tuple(ids)) if len(ids) <= longest else None)
    if not any(found):
        raise UserError(
            f"none of the {len(found)} prompts has at most {longest} tokens\n"
            "  mend: other prompts, or fewer sampling.max_new_tokens"
        )
    return found, tokenizer.stop_ids if text else chat_stop_ids(tokenizer, template)


def with_shots(said: Sequence[Message], shots: Shots) -> list[Message]:
    """A conversation with worked examples before it; what the system says stays in front."""
    n_system = int(bool(said) and said[0]["role"] == "system")
    return [*said[:n_system], *shots, *said[n_system:]]
