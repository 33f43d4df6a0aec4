"""Dialogues by self-play, guided by a reward model (ALMoST, arXiv 2305.13735).

    the assistant answers K times -> the best by the reward goes on -> the user asks on -> ...

Each turn is a step of rejection sampling by itself, so that all its answers are in the pool, and its pairs too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxrl_llm.data.examples import Message
from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.choose import Chosen, choose
from jaxrl_llm.reject.config import RejectConfig, SelfPlayConfig
from jaxrl_llm.reject.pool import Asked, Pool
from jaxrl_llm.reject.work import Work
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.tasks import Task


class Dialogue(NamedTuple):
    """What came of one prompt."""

    messages: tuple[Message, ...]
    origin: str
    given: int  # messages of the prompt that it began with


class Played(NamedTuple):
    """All turns."""

    rated: list[Asked]
    chosen: list[Chosen]
    dialogues: list[Dialogue]


def play(
    config: RejectConfig, rules: SelfPlayConfig, questions: Sequence[Prompt], task: Task | None, work: Work
) -> Played:
    """Play all dialogues to their end: `turns` answers, or where nothing is accepted, asked, or left of the context.

    Raises:
        UserError: the prompts are text; of models and templates.
    """
    if isinstance(questions[0].said, str):
        raise UserError("self_play makes dialogues, and the prompts are text to go on with\n  mend: prompts.chat=true")
    played, given = Played([], [], []), {each.origin: len(each.said) for each in questions}
    (name,) = config.models

    def end(prompt: Prompt, messages: Sequence[Message]) -> None:
        played.dialogues.append(Dialogue(tuple(messages), prompt.origin, given[prompt.origin]))

    for turn in range(rules.turns):
        pool = Pool(questions, task if turn == 0 else None, chat=True)
        pool.add_drawn(name, questions, work.answer(questions, f"turn-{turn}")[name])
        rated = work.rate(pool.asked)
        chosen = choose(rated, config)
        played.rated.extend(rated)
        played.chosen.extend(chosen)
        going_on: list[Prompt] = []
        for asked, each in zip(rated, chosen, strict=True):
            if each.selected:
                going_on.append(_said(asked.prompt, "assistant", asked.candidates[each.selected[0]].text))
            elif turn:  # without what the user asked in vain
                end(asked.prompt, asked.prompt.said[:-1])  # type: ignore[arg-type]  # these are messages
        last = turn + 1 == rules.turns or not going_on
        texts = [""] * len(going_on) if last else work.ask_on(rules, going_on, f"turn-{turn}-user")
        questions = [_said(each, "user", text) for each, text in zip(going_on, texts, strict=True) if text]
        for prompt, text in zip(going_on, texts, strict=True):
            if not text:
                end(prompt, prompt.said)  # type: ignore[arg-type]
        if not questions:
            break
    return played


def _said(prompt: Prompt, role: str, text: str) -> Prompt:
    """The dialogue with a further turn."""
    return Prompt((), (*prompt.said, {"role": role, "content": text}), prompt.origin, prompt.safety)
