"""Messages out of what a column of a row holds: a string, a message, a list of messages, a whole dialogue as text."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxrl_llm.data.examples import Answer, Message
from jaxrl_llm.errors import UserError

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
MESSAGE = '{"role", "content"} or {"from", "value"}'
LARGEST = 3e38  # of numbers in rows: float32 has none larger
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")  # begins a turn of a dialogue


def misfit(column: str, expected: str, found: Any) -> NoReturn:
    """Raises UserError: what a column should hold, and what it holds."""
    text = json.dumps(found, ensure_ascii=False, default=str).encode(errors="backslashreplace").decode()
    raise UserError(f"`{column}`: expected {expected}, found {text if len(text) <= 120 else text[:117] + '...'}")


def turns_of(value: Any, role: str, column: str) -> tuple[Message, ...]:
    """The messages of a column; a string is one of `role`.

    >>> turns_of([{"from": "human", "value": "2+2?"}], "user", "prompt")
    ({'role': 'user', 'content': '2+2?'},)
    """
    if isinstance(value, str):
        return ({"role": role, "content": text_of(value, column)},)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages:
        misfit(column, "a string, a message or a list of messages", value)
    return tuple(_message(each, f"{column}[{i}]") for i, each in enumerate(messages))


def weights_of(value: list[dict[str, Any]], column: str) -> tuple[float, ...] | None:
    """What each message of a list says that it counts, 1 where it does not; None if none does."""
    said = [message.get("weight") for message in value]
    if all(weight is None for weight in said):
        return None
    return tuple(
        1.0 if weight is None else number_of(weight, f"{column}[{i}].weight", minimum=0.0)
        for i, weight in enumerate(said)
    )


def text_of(value: Any, column: str) -> str:
    """A string that UTF-8 can write."""
    if not isinstance(value, str):
        misfit(column, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"`{column}`: half of a surrogate pair at character {error.start}") from error
    return value


def number_of(value: Any, column: str, minimum: float = -math.inf) -> float:
    """A finite number, and no less than `minimum`."""
    least = max(minimum, -LARGEST)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LARGEST:
        misfit(column, "a number" if minimum == -math.inf else f"a number of at least {minimum:g}", value)
    return float(value)


def flag_of(value: Any, column: str) -> bool:
    """True or false, or 1 or 0."""
    if not isinstance(value, int) or value not in (0, 1):
        misfit(column, "true, false, 1 or 0", value)
    return bool(value)


def dialogue_of(text: Any, column: str) -> tuple[Message, ...]:
    r"""The turns of a dialogue that is one text, without the white space around them.

    >>> dialogue_of("\n\nHuman: 2+2?\n\nAssistant: 4", "chosen")
    ({'role': 'user', 'content': '2+2?'}, {'role': 'assistant', 'content': '4'})
    """
    head, *parts = _SPEAKER.split(text_of(text, column))
    if head.strip() or not parts:
        misfit(column, r'a dialogue, "\n\nHuman: ...\n\nAssistant: ..."', text)
    return tuple(
        {"role": ROLES[speaker.lower()], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    )


def split_common(dialogues: Sequence[tuple[Message, ...]]) -> tuple[tuple[Message, ...], tuple[Answer, ...]]:
    """The prompt and the answers of dialogues that begin with the same turns.

    The prompt is these turns up to the last that is not the assistant's: after it there is something to answer.
    """
    n = 0
    for same in zip(*dialogues, strict=False):
        if any(message != same[0] for message in same):
            break
        n += 1
    while n and dialogues[0][n - 1]["role"] == "assistant":
        n -= 1
    return dialogues[0][:n], tuple(dialogue[n:] for dialogue in dialogues)


def check_prompt(prompt: tuple[Message, ...]) -> None:
    """Raises UserError unless it is the assistant's turn after it."""
    if not prompt or prompt[-1]["role"] == "assistant":
        raise UserError(f"expected a prompt, the same for all answers, with a user's turn last; found {_order(prompt)}")


def check_answer(answer: Answer) -> None:
    """Raises UserError unless it begins and ends with a turn of the assistant."""
    if not answer or {answer[0]["role"], answer[-1]["role"]} != {"assistant"}:
        raise UserError(
            f"expected after the prompt an answer, assistant's turns first and last; found {_order(answer)}"
        )


def check_conversation(messages: tuple[Message, ...]) -> None:
    """Raises UserError unless the assistant says something."""
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"expected a turn of the assistant; found {_order(messages)}")


def _message(value: Any, column: str) -> Message:
    if isinstance(value, dict):
        for role, content in (("role", "content"), ("from", "value")):
            if role in value and content in value:
                if not isinstance(value[role], str) or value[role] not in ROLES:
                    misfit(f"{column}.{role}", f"one of {', '.join(ROLES)}", value[role])
                return {"role": ROLES[value[role]], "content": text_of(value[content], f"{column}.{content}")}
    misfit(column, f"a message, {MESSAGE}", value)


def _order(messages: Sequence[Message]) -> str:
    return ", ".join(message["role"] for message in messages) or "no turn"
