"""What people and models wrote, before it is tokens: conversations, comparisons of answers, answers judged alone."""

from collections.abc import Mapping
from dataclasses import dataclass

Message = Mapping[str, str]  # {"role": "user", "content": "Who wrote Faust?"}; roles: system, user, assistant
Answer = tuple[Message, ...]  # begins with an assistant's turn; mostly that is all


@dataclass(frozen=True)
class Conversation:
    """Messages of which the assistant's are trained on.

    >>> Conversation(({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}), None, "a.jsonl:1")
    """

    messages: tuple[Message, ...]
    weights: tuple[float, ...] | None  # of each message: what its tokens count if it is trained on; None: 1 each
    origin: str  # "file:line", or "file#index" where there are no lines


@dataclass(frozen=True)
class Comparison:
    """Two or more answers to one prompt, ranked."""

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]  # K >= 2
    ranks: tuple[int, ...]  # of each answer, 0 is the best; equal ranks are a tie
    origin: str
    margin: float | None = None  # by how much the better of two should lead, in units of the reward model's score
    rating: int | None = None  # of two: 3 significantly better, 2 better, 1 slightly better, 0 negligibly better
    safety: bool = False  # the prompt is about safety: reward models for safety are trained and asked on such rows
    safe: tuple[bool | None, ...] | None = None  # of each answer: whether it is safe
    subset: str | None = None  # a name that accuracies are reported by


@dataclass(frozen=True)
class Judgement:
    """One answer, wanted or not."""

    prompt: tuple[Message, ...]
    answer: Answer
    label: bool
    origin: str
    safety: bool = False
    subset: str | None = None
    beside: Answer | None = None  # the answer it was compared with: both keep the same prompt when it has to be cut


@dataclass(frozen=True)
class Unwanted:
    """A row that was read where wanted answers alone are: counted, not trained on."""

    origin: str


Example = Conversation | Comparison | Judgement | Unwanted
