"""The pool: each prompt with all its candidates, whoever wrote them and when, and what each is worth."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.distributed import is_main
from jaxrl_llm.reject.candidates import Group
from jaxrl_llm.reject.draw import Drawn
from jaxrl_llm.reject.files import write_text
from jaxrl_llm.reject.questions import key_of, said
from jaxrl_llm.rollout.config import LengthPenaltyConfig, RewardsConfig, TaskRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Moments, Scorer, Written, compose
from jaxrl_llm.tasks import Task
from jaxrl_llm.tasks.task import grade_all

HUMAN = "human"  # who wrote a task's own worked answers


@dataclass(frozen=True)
class Candidate:
    """An answer."""

    text: str
    model: str  # who wrote it
    human: bool = False  # the task's own worked answer
    ended: bool = True  # by itself, not by the limit
    tokens: int | None = None  # the end token included; None: not known
    grade: float | None = None  # of the task's grader; None: there is none
    score: float | None = None  # by the rules of the rewards; None: nothing rates it

    @property
    def right(self) -> bool | None:
        """Whether the grader says so."""
        return None if self.grade is None else self.grade == 1.0


@dataclass
class Asked:
    """A prompt with its candidates."""

    prompt: Prompt
    candidates: list[Candidate] = field(default_factory=list)


class Pool:
    """Prompts by what they say, in the order that they came."""

    def __init__(self, questions: Iterable[Prompt], task: Task | None, chat: bool) -> None:
        self._by_prompt: dict[str, Asked] = {}
        self._task, self._chat = task, chat
        for prompt in questions:
            self._at(prompt)

    @property
    def asked(self) -> list[Asked]:
        """All of it."""
        return [*self._by_prompt.values()]

    def _at(self, prompt: Prompt) -> Asked:
        return self._by_prompt.setdefault(key_of(prompt.said), Asked(prompt))

    def add_drawn(self, name: str, questions: Sequence[Prompt], drawn: Sequence[Drawn]) -> None:
        """The answers of a model; the grader says what they are worth."""
        for prompt, each in zip(questions, drawn, strict=True):
            grades = self._grades(prompt, each.texts)
            self._at(prompt).candidates += [
                Candidate(text, name, ended=ended, tokens=tokens, grade=grade)
                for text, ended, tokens, grade in zip(each.texts, each.ended, each.tokens, grades, strict=True)
            ]

    def add_groups(self, groups: Iterable[Group], source: str) -> None:
        """Answers made elsewhere; what their rows say of right and wrong counts where there is no grader.

        `source` is who wrote those that name nobody.
        """
        for group in groups:
            asked = self._at(as_prompt(group, self._chat))
            grades = self._grades(asked.prompt, [answer.text for answer in group.answers])
            for answer, grade in zip(group.answers, grades, strict=True):
                if grade is None and answer.right is not None:
                    grade = float(answer.right)
                asked.candidates.append(
                    Candidate(
                        answer.text,
                        answer.model or source,
                        ended=answer.ended is not False,
                        tokens=answer.tokens,
                        grade=grade,
                    )
                )

    def add_human(self) -> None:
        """The worked answers of the task's own authors, before all others."""
        for asked in self.asked:
            example = asked.prompt.example
            if example is not None:
                (grade,) = self._grades(asked.prompt, [example.answer])
                asked.candidates.insert(0, Candidate(example.answer, HUMAN, human=True, grade=grade))

    def _grades(self, prompt: Prompt, texts: Sequence[str]) -> list[float | None]:
        if self._task is None or prompt.example is None:
            return [None] * len(texts)
        return [float(grade) for grade in grade_all(self._task, texts, [prompt.example] * len(texts))]


def as_prompt(group: Group, chat: bool) -> Prompt:
    """What a group of candidates was asked; with `chat` what is text is what a user says."""
    return Prompt((), said(group.prompt, chat), group.origin, group.safety)


class Scores(NamedTuple):
    """Where the scores of reward models are kept, so that a run that was cut short asks for none twice."""

    folder: Path
    judges: str  # what decides them besides texts and settings: fingerprints of the models


def rate(
    pool: Sequence[Asked],
    rewards: RewardsConfig,
    scorers: Mapping[str, Scorer],
    kept: Scores,
    *,
    chunk: int,
    advance: Callable[[int], object],
) -> list[Asked]:
    """The pool with a score for every candidate, by the rules of the rewards; nothing happens where nothing rates.

    Args:
        pool: the candidates.
        rewards: the rules.
        scorers: the reward models, by the name of their part.
        kept: scores of before.
        chunk: prompts at a time.
        advance: told how many more answers are rated.

    Raises:
        UserError: a score is not finite, or something that the rules ask for is not known of a candidate.
    """
    if not rewards.parts:
        return [*pool]
    flat = [(asked.prompt, each) for asked in pool for each in asked.candidates]
    parts: dict[str, list[float]] = {name: [] for name, part in rewards.parts.items() if part.kind != "length"}
    for first in range(0, len(pool), chunk):
        for name, scores in _rated(pool[first : first + chunk], rewards, scorers, kept).items():
            parts[name] += scores
        advance(sum(len(asked.candidates) for asked in pool[first : first + chunk]))
    written = Written(
        np.asarray([each.ended for _, each in flat]),
        np.asarray([_length(*pair, rewards) for pair in flat]),
        np.asarray([prompt.safety for prompt, _ in flat]),
    )
    arrays = {name: np.asarray(scores, np.float32) for name, scores in parts.items()}
    found = iter(compose(arrays, written, rewards, Moments()).score_B.tolist())
    return [Asked(asked.prompt, [replace(each, score=next(found)) for each in asked.candidates]) for asked in pool]


def _length(prompt: Prompt, candidate: Candidate, rewards: RewardsConfig) -> int:
    if candidate.tokens is None and any(isinstance(part, LengthPenaltyConfig) for part in rewards.parts.values()):
        raise UserError(
            f"{prompt.origin}: the tokens of an answer by {candidate.model} are not known, and a part of the reward is "
            "about length\n  mend: `tokens` in the rows of the file, or leave that part out"
        )
    return candidate.tokens or 0


def _rated(
    pool: Sequence[Asked], rewards: RewardsConfig, scorers: Mapping[str, Scorer], kept: Scores
) -> dict[str, list[float]]:
    """What each part gives the candidates of some prompts; kept by all that decides it."""
    flat = [(asked.prompt, each) for asked in pool for each in asked.candidates]
    found: dict[str, list[float]] = {}
    for name, part in rewards.parts.items():
        if isinstance(part, TaskRewardConfig):
            found[name] = [*_grades(flat)]
    if not scorers:
        return found
    texts = [[asked.prompt.said, [each.text for each in asked.candidates]] for asked in pool]
    settings = {name: asdict(rewards.parts[name]) for name in scorers}
    digest = hashlib.sha256(json.dumps([kept.judges, settings, texts]).encode()).hexdigest()[:24]
    path = kept.folder / f"{digest}.json"
    if path.is_file():
        return found | json.loads(path.read_text(encoding="utf-8"))
    pairs = [(i, each.text) for i, asked in enumerate(pool) for each in asked.candidates]
    different = [*dict.fromkeys(pairs)]  # equal answers to a prompt are asked about once
    prompts, answers = [pool[i].prompt for i, _ in different], [text for _, text in different]
    scored = {}
    for name, scorer in scorers.items():
        score = dict(zip(different, np.asarray(scorer(prompts, answers), np.float32).tolist(), strict=True))
        scored[name] = [score[pair] for pair in pairs]
    if is_main():
        write_text(path, json.dumps(scored))
    return found | scored


def _grades(flat: Iterable[tuple[Prompt, Candidate]]) -> Iterator[float]:
    for prompt, each in flat:
        if each.grade is None:
            raise UserError(
                f"{prompt.origin}: the prompt is no problem of the task, and the row does not say which answers are "
                "right, so there is no grade\n  mend: `right` in that row, or the problems that were asked: "
                "prompts.problems, prompts.problems_seed"
            )
        yield each.grade
