"""Hand-made prompts with candidates."""

from collections.abc import Sequence
from typing import Any

from jaxrl_llm.reject.config import RejectConfig
from jaxrl_llm.reject.pool import HUMAN, Asked, Candidate
from jaxrl_llm.rollout.prompts import Prompt


def question(text: str = "2+2?", **more: Any) -> Prompt:
    """What a user says."""
    return Prompt((), ({"role": "user", "content": text},), f"file:{text}", **more)


def asked(*answers: str, scores: Sequence[float | None] = (), prompt: Prompt | None = None, **columns: Any) -> Asked:
    """A prompt answered by `policy`; `columns` are lists of what else is known of each answer, by field."""
    scores = scores or [None] * len(answers)
    rows = [{name: column[i] for name, column in columns.items()} for i in range(len(answers))]
    made = [Candidate(t, **{"model": "policy"} | row, score=s) for t, s, row in zip(answers, scores, rows, strict=True)]
    return Asked(prompt or question(), made)


def with_human(one: Asked, text: str, grade: float = 1.0) -> Asked:
    """With the worked answer of the task's author before all others."""
    return Asked(one.prompt, [Candidate(text, HUMAN, human=True, grade=grade), *one.candidates])


def config(**sections: Any) -> RejectConfig:
    """A config of which choosing reads a part."""
    return RejectConfig(workdir="runs/reject", **sections)
