"""What people wrote as tokens with their weights: each answer with the token that ends it, cut to what fits.

Light to import, as processes that only tokenise do.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxrl_llm.data.chat import Template, tokenize_prompt, tokenize_turns
from jaxrl_llm.data.examples import Answer, Comparison, Conversation, Example, Judgement, Message, Unwanted
from jaxrl_llm.data.sequences import Encoded
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError

Weighted = tuple[list[int], list[float]]  # ids and as many weights
SAFE: Mapping[bool | None, int] = {True: 1, False: 0, None: -1}


@dataclass(frozen=True)
class LeftOut:
    """An example that is not trained on.

    empty: no answer says anything; untrained: no token that counts is left; overlong: it would have to be cut;
    identical: its answers are the same; tied: no answer is better than another; unwanted: its answer is not wanted.
    """

    reason: Literal["empty", "untrained", "overlong", "identical", "tied", "unwanted"]


@dataclass(frozen=True)
class Refused:
    """An example that is no example for this template; `row` is it as plain values."""

    error: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Encoder:
    """Makes tokens of examples.  May go to another process."""

    tokenizer: Tokenizer
    template: Template
    max_length: int
    """Longest prompt + answer."""
    overlong: Literal["truncate", "drop"] = "truncate"
    train_on: Literal["all", "last"] = "all"
    """Which answers of a conversation."""
    gatt: bool = False
    """Ghost attention, see `ghost`; the last answer alone is trained on."""

    def __call__(self, example: Example) -> Encoded | LeftOut:
        """The tokens of an example, or why there are none.

        Raises:
            UserError: the template refuses it, or the tokens of prompt and answer do not begin with the prompt's.
        """
        try:
            if isinstance(example, Unwanted):
                return LeftOut("unwanted")
            if isinstance(example, Conversation):
                return self._conversation(example)
            return self._comparison(example) if isinstance(example, Comparison) else self._judgement(example)
        except UserError as error:
            raise UserError(f"{example.origin}: {error}") from error

    def _conversation(self, example: Conversation) -> Encoded | LeftOut:
        messages, counts = example.messages, example.weights or (1.0,) * len(example.messages)
        if self.gatt:
            messages, counts = ghost(messages, counts)
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [n for n in (answers[-1:] if self.gatt or self.train_on == "last" else answers) if counts[n]]
        said = [n for n in wanted if _is_said(messages[n])]
        if not said:
            return LeftOut("empty" if wanted else "untrained")
        ids, turns = tokenize_turns(self.tokenizer, self.template, messages, said)
        weights = [0.0 if turn is None else counts[turn] for turn in turns]
        weights[0] = 0.0  # nothing before it could predict it
        cut = len(ids) > self.max_length
        if cut and self.overlong == "drop":
            return LeftOut("overlong")
        ids, weights = ids[: self.max_length], weights[: self.max_length]
        if not any(weights):
            return LeftOut("untrained")
        return Encoded([], [(ids, weights)], cut=cut, left_out=len(wanted) - len(said))

    def _judgement(self, example: Judgement) -> Encoded | LeftOut:
        if not _says_something(example.answer):
            return LeftOut("empty")
        prompt = self._prompt(example.prompt)
        both = [answer for answer in (example.answer, example.beside) if answer is not None and _says_something(answer)]
        fitting = self._fit(prompt, [self._answer(prompt, example.prompt, answer) for answer in both])
        if fitting is None:
            return LeftOut("overlong")
        cut_prompt, [answer, *beside], cut = fitting
        if not any(answer[1]):
            return LeftOut("untrained")
        if any(other[0] == answer[0] for other in beside):
            return LeftOut("identical")
        return Encoded(
            cut_prompt, [answer], safety=example.safety, subset=example.subset, label=int(example.label), cut=cut
        )

    def _comparison(self, example: Comparison) -> Encoded | LeftOut:
        said = [n for n, answer in enumerate(example.answers) if _says_something(answer)]
        if len(said) < 2:
            return LeftOut("empty")
        prompt = self._prompt(example.prompt)
        fitting = self._fit(prompt, [self._answer(prompt, example.prompt, example.answers[n]) for n in said])
        if fitting is None:
            return LeftOut("overlong")
        cut_prompt, answers, cut = fitting
        by_number = {n: answer for n, answer in zip(said, answers, strict=True) if any(answer[1])}
        different: dict[tuple[int, ...], int] = {}  # of answers that are the same, the best one
        for n in sorted(by_number, key=lambda n: example.ranks[n]):
            different.setdefault(tuple(by_number[n][0]), n)
        kept = sorted(different.values())
        if len(kept) < 2:
            return LeftOut("untrained" if len(by_number) < 2 else "identical")
        if len({example.ranks[n] for n in kept}) == 1:
            return LeftOut("tied")
        safe = example.safe or (None,) * len(example.answers)
        return Encoded(
            cut_prompt,
            [by_number[n] for n in kept],
            ranks=[example.ranks[n] for n in kept],
            safe=[SAFE[safe[n]] for n in kept],
            margin=math.nan if example.margin is None else example.margin,
            rating=-1 if example.rating is None else example.rating,
            safety=example.safety,
            subset=example.subset,
            cut=cut,
            left_out=len(example.answers) - len(kept),
        )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        ids = tokenize_prompt(self.tokenizer, self.template, messages)
        if not ids:
            raise UserError(f"chat template {self.template.name}: it makes no token of the prompt, so nothing leads on")
        return ids

    def _answer(self, prompt: Sequence[int], asked: Sequence[Message], answer: Answer) -> Weighted:
        """What follows the prompt's tokens up to its last end token: templates may go on after it, a model does not."""
        messages = (*asked, *answer)
        said = [n for n in range(len(asked), len(messages)) if _is_said(messages[n])]
        ids, turns = tokenize_turns(self.tokenizer, self.template, messages, said)
        if ids[: len(prompt)] != prompt:
            raise UserError(
                f"chat template {self.template.name}: with the answer after it, the prompt has other tokens\n"
                "  mend: another template (chatml), or a prompt without what this one changes"
            )
        end = 1 + max((n for n, turn in enumerate(turns) if turn is not None), default=len(ids) - 1)
        return ids[len(prompt) : end], [float(turn is not None) for turn in turns[len(prompt) : end]]

    def _fit(self, prompt: list[int], answers: list[Weighted]) -> tuple[list[int], list[Weighted], bool] | None:
        """Prompt and answers within `max_length`, and whether they had to be cut; None: they are to be left out.

        The prompt loses tokens at its start, but for BOS, and keeps half of `max_length`; the answers at their ends.
        """
        longest = max(len(ids) for ids, _ in answers)
        if len(prompt) + longest <= self.max_length:
            return prompt, answers, False
        if self.overlong == "drop":
            return None
        room = max(self.max_length - longest, (self.max_length + 1) // 2)
        if len(prompt) > room:
            bos = prompt[:1] if prompt[0] == self.tokenizer.bos_id and room > 1 else []
            prompt = bos + prompt[len(prompt) - room + len(bos) :]
        left = self.max_length - len(prompt)
        return prompt, [(ids[:left], weights[:left]) for ids, weights in answers], True


def ghost(messages: Sequence[Message], weights: Sequence[float]) -> tuple[tuple[Message, ...], tuple[float, ...]]:
    """The messages of a dialogue for ghost attention (arXiv 2307.09288), and what is left of their weights.

    The system message moves to the start of the first user turn; a later one that repeats it at its start loses it.

    >>> ghost([{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Hi"}], (1.0, 1.0))
    (({'role': 'user', 'content': 'Rhyme.\\n\\nHi'},), (1.0,))
    """
    if not messages or messages[0]["role"] != "system":
        return tuple(messages), tuple(weights)
    instruction, rest = messages[0]["content"].strip(), list(messages[1:])
    asked = [number for number, message in enumerate(rest) if message["role"] == "user"]
    for number in asked:
        said = rest[number]["content"]
        rest_of = said.removeprefix(instruction)
        question = rest_of.lstrip() if rest_of[:1].isspace() else said  # not within a word
        content = question if number != asked[0] or not instruction else f"{instruction}\n\n{question}"
        rest[number] = {**rest[number], "content": content}
    return tuple(rest), tuple(weights[1:])


def encode_all(encoder: Encoder, strict: bool, examples: Sequence[Example]) -> list[Encoded | LeftOut | Refused]:
    """What becomes of each example.  Raises UserError at one that is refused, if `strict`."""
    found: list[Encoded | LeftOut | Refused] = []
    for example in examples:
        try:
            found.append(encoder(example))
        except UserError as error:
            if strict:
                raise
            found.append(Refused(str(error), dataclasses.asdict(example)))
    return found


def _is_said(message: Message) -> bool:
    """Whether it is an answer of the assistant that says something."""
    return message["role"] == "assistant" and bool(message["content"].strip())


def _says_something(answer: Answer) -> bool:
    return any(map(_is_said, answer))
