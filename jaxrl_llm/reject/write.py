"""The data sets that come of it: pool.jsonl, sft.jsonl, pairs.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm.reject.choose import Chosen
from jaxrl_llm.reject.config import RejectConfig
from jaxrl_llm.reject.files import write_rows
from jaxrl_llm.reject.pool import Asked, Candidate
from jaxrl_llm.reject.self_play import Dialogue
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.types import Json

POOL, SFT, PAIRS = "pool.jsonl", "sft.jsonl", "pairs.jsonl"
FILES: Mapping[str, str] = {
    POOL: "prompts with all their answers, scored: for a later run's `pool`, `candidates`, or a reward model",
    SFT: "selected answers, to fine-tune on",
    PAIRS: "pairs of a better and a worse answer, for a reward model or DPO",
}


def write_chosen(
    workdir: Path,
    pool: Sequence[Asked],
    chosen: Sequence[Chosen],
    config: RejectConfig,
    dialogues: Sequence[Dialogue] | None,
) -> dict[str, int]:
    """Write the files; returns file name -> rows.  Without pairs there is no file of them.

    Of self-play the `dialogues` are what one fine-tunes on: they hold all selected answers.
    """
    rows = {POOL: [pool_row(asked) for asked in pool if any(not each.human for each in asked.candidates)]}
    rows[SFT] = [
        sft_row(asked.prompt, asked.candidates[i])
        for asked, each in zip(pool, chosen, strict=True)
        for i in each.selected
    ]
    if dialogues is not None:
        rows[SFT] = [dialogue_row(each) for each in dialogues]
    if config.pairs.kind != "none":
        rows[PAIRS] = [
            pair_row(asked.prompt, asked.candidates[better], asked.candidates[worse])
            for asked, each in zip(pool, chosen, strict=True)
            for better, worse in each.pairs
        ]
    else:
        (workdir / PAIRS).unlink(missing_ok=True)  # of an earlier choice
    for name, each in rows.items():
        write_rows(workdir / name, each)
    return {name: len(each) for name, each in rows.items()}


def pool_row(asked: Asked) -> Json:
    """A prompt with the answers of models, as `reject.candidates` reads it."""
    found = [each for each in asked.candidates if not each.human]
    columns: dict[str, list[Any]] = {
        "answers": [each.text for each in found],
        "models": [each.model for each in found],
        "scores": [each.score for each in found],
        "right": [each.right for each in found],
        "ended": [each.ended for each in found],
        "tokens": [each.tokens for each in found],
    }
    known = {name: column for name, column in columns.items() if any(value is not None for value in column)}
    return {"prompt": asked.prompt.said, **known, **_about(asked.prompt)}


def sft_row(prompt: Prompt, candidate: Candidate) -> Json:
    """A conversation and its answer, which alone is learnt; or a text that goes on with it."""
    known = {"model": candidate.model, "score": candidate.score, "origin": prompt.origin}
    about = {name: value for name, value in known.items() if value is not None}
    if isinstance(prompt.said, str):
        return {"text": prompt.said + candidate.text, **about}
    return {"prompt": prompt.said, "completion": candidate.text, **about}


def dialogue_row(dialogue: Dialogue) -> Json:
    """A conversation of which the turns of the assistant are learnt that were selected, not those it began with."""
    messages = [
        {**message, "weight": 0} if i < dialogue.given and message["role"] == "assistant" else message
        for i, message in enumerate(dialogue.messages)
    ]
    return {"messages": messages, "origin": dialogue.origin}


def pair_row(prompt: Prompt, better: Candidate, worse: Candidate) -> Json:
    """A comparison."""
    row: Json = {"prompt": prompt.said, "chosen": better.text, "rejected": worse.text}
    for name, each in (("chosen", better), ("rejected", worse)):
        about = {f"{name}_model": each.model, f"{name}_score": each.score}
        row |= {key: value for key, value in about.items() if value is not None}
    return row | _about(prompt)


def _about(prompt: Prompt) -> Json:
    return {**({"safety": True} if prompt.safety else {}), "origin": prompt.origin}
