"""The parts that rows are made of: prompts, answers, conversations, comparisons; the same in several formats."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrl_llm.data import turns
from jaxrl_llm.data.examples import Answer, Comparison, Conversation, Message
from jaxrl_llm.errors import UserError

Row = Mapping[str, Any]
Slot = tuple[tuple[str, ...], ...]  # columns that stand for the same, each with those that are read beside it

INSTRUCTION = ("instruction", "input", "history")
PROMPT: Slot = (("prompt",), INSTRUCTION, ("conversations",), ("messages",))
ANSWER: Slot = (("completion",), ("answer",), ("response",))
ANSWERS: Slot = (("answers",), ("responses",), ("output",))
RATINGS = {"significantly better": 3, "better": 2, "slightly better": 1, "negligibly better": 0}


def present(row: Row, slot: Slot) -> str | None:
    """The first column of a slot that a row has."""
    return next((names[0] for names in slot if names[0] in row), None)


def needed(row: Row, slot: Slot) -> str:
    """The column of a slot that a row must have."""
    column = present(row, slot)
    if column is None:
        names = " or ".join(f"`{names[0]}`" for names in slot)
        raise UserError(f"expected {names}, found {', '.join(f'`{name}`' for name in row) or 'no column'}")
    return column


def prompt_of(row: Row, column: str | None = None) -> tuple[Message, ...]:
    """The messages of the column that is the prompt, or of a given one."""
    column = column or needed(row, PROMPT)
    messages = _instruction(row) if column == "instruction" else turns.turns_of(row[column], "user", column)
    return with_system(row, messages, column)


def with_system(row: Row, messages: tuple[Message, ...], column: str) -> tuple[Message, ...]:
    """The messages of a column after the row's `system`, if it has one."""
    system = _system(row)
    if system and messages[0]["role"] == "system":
        turns.misfit("system", f"nothing, since `{column}` has a system message", row["system"])
    return (*system, *messages)


def _system(row: Row) -> tuple[Message, ...]:
    said = turns.text_of(row.get("system", ""), "system")
    return ({"role": "system", "content": said},) if said.strip() else ()


def _instruction(row: Row) -> tuple[Message, ...]:
    """The input follows the instruction after a blank line."""
    earlier = row.get("history", [])
    if not isinstance(earlier, list) or not all(isinstance(each, list) and len(each) == 2 for each in earlier):
        turns.misfit("history", "a list of [question, answer]", earlier)
    said = [text for each in earlier for text in each]
    parts = [turns.text_of(row.get(name, ""), name) for name in ("instruction", "input")]
    said.append("\n\n".join(part for part in parts if part.strip()))
    return tuple(
        {"role": "assistant" if i % 2 else "user", "content": turns.text_of(text, "history")}
        for i, text in enumerate(said)
    )


def conversation_of(row: Row, column: str, origin: str) -> Conversation:
    """The messages of a column, with the weights that they state."""
    messages = prompt_of(row, needed(row, ((column,),)))
    turns.check_conversation(messages)
    said = row[column]
    weights = turns.weights_of(said, column) if isinstance(said, list) else None
    if weights is not None:
        weights = (*(1.0 for _ in messages[len(weights) :]), *weights)  # the column `system` comes first
    return Conversation(messages, weights, origin)


def after_prompt(
    prompt: tuple[Message, ...], answer: Answer, origin: str, weights: tuple[float, ...] | None = None
) -> Conversation:
    """A conversation of which the answer alone is trained on, not what the assistant says in its prompt.

    `weights`: of the answer's messages, where they state some.
    """
    earlier = any(message["role"] == "assistant" for message in prompt)
    if weights is None and not earlier:
        return Conversation((*prompt, *answer), None, origin)
    counts = (*(0.0 for _ in prompt), *(weights or (1.0 for _ in answer)))
    return Conversation((*prompt, *answer), counts, origin)


def answer_of(value: Any, prompt: tuple[Message, ...], column: str) -> Answer:
    """The messages of an answer, from which the prompt is taken off if they begin with it."""
    messages = turns.turns_of(value, "assistant", column)
    return messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages


def answers_of(row: Row) -> tuple[tuple[Message, ...], tuple[Answer, ...]]:
    """The prompt and the answers of a list."""
    prompt, column = prompt_of(row), needed(row, ANSWERS)
    found = row[column]
    if not isinstance(found, list) or len(found) < 2:
        turns.misfit(column, "a list of two answers or more", found)
    return prompt, tuple(answer_of(each, prompt, f"{column}[{i}]") for i, each in enumerate(found))


def numbers_of(row: Row, column: str, count: int) -> list[float]:
    """A number for each answer."""
    found = row[column]
    if not isinstance(found, list) or len(found) != count:
        turns.misfit(column, f"a list of {count} numbers, one for each answer", found)
    return [turns.number_of(each, f"{column}[{i}]") for i, each in enumerate(found)]


def places_of(numbers: list[float]) -> tuple[int, ...]:
    """Of each number, how many lesser ones there are, equal ones counted once."""
    order = sorted(set(numbers))
    return tuple(order.index(number) for number in numbers)


def pair_of(row: Row, prompt: tuple[Message, ...], answers: tuple[Answer, ...], origin: str) -> Comparison:
    """A comparison of a better and a worse answer, with what stands beside it."""
    margin = turns.number_of(row["margin"], "margin", minimum=0.0) if "margin" in row else None
    rating = row.get("rating")
    if isinstance(rating, str):
        rating = RATINGS.get(rating.split("/")[0].strip().lower())  # "negligibly better / unsure"
    if "rating" in row and (isinstance(rating, bool) or rating not in RATINGS.values()):
        turns.misfit("rating", "one of " + ", ".join(f"{RATINGS[name]}, {name!r}" for name in RATINGS), row["rating"])
    found = comparison_of(row, prompt, answers, (0, 1), origin)
    return dataclasses.replace(found, margin=margin, rating=None if rating is None else int(rating))


def comparison_of(
    row: Row, prompt: tuple[Message, ...], answers: tuple[Answer, ...], ranks: tuple[int, ...], origin: str
) -> Comparison:
    """Ranked answers, with what stands beside them."""
    check_answers(prompt, answers)
    safe = row.get("safe")
    if safe is not None:
        if not isinstance(safe, list) or len(safe) != len(answers):
            turns.misfit("safe", f"a list of {len(answers)}, one for each answer", safe)
        safe = tuple(None if each is None else turns.flag_of(each, f"safe[{i}]") for i, each in enumerate(safe))
    return Comparison(prompt, answers, ranks, origin, safe=safe, **tags_of(row))


def check_answers(prompt: tuple[Message, ...], answers: tuple[Answer, ...]) -> None:
    """Raises UserError unless the assistant answers a prompt."""
    turns.check_prompt(prompt)
    for answer in answers:
        turns.check_answer(answer)


def tags_of(row: Row) -> dict[str, Any]:
    """What may stand beside any judged answers."""
    return {
        "safety": turns.flag_of(row.get("safety", False), "safety"),
        "subset": turns.text_of(row["subset"], "subset") if "subset" in row else None,
    }
