"""What policies answer at temperature 1, and how likely another policy finds it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrl_llm.best_of_n.questions import Questions
from jaxrl_llm.data.prompts import written
from jaxrl_llm.evals.score import Text, logp_scorer, row_lengths, text_scorer
from jaxrl_llm.evaluation import progress
from jaxrl_llm.models import build_model
from jaxrl_llm.rollout.sampler import Sampler, Stats
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import Opened, open_model


@dataclass(frozen=True)
class Answers:
    """N answers to each of B prompts."""

    texts: list[list[str]]  # [B][N]
    tokens: list[list[list[int]]]  # [B][N], the end token included

    @property
    def length_BN(self) -> np.ndarray:
        """In tokens."""
        return np.asarray([[len(ids) for ids in row] for row in self.tokens])


def visit(
    path: str, asked: Questions, n: int, seed: int, size: int, title: str, others: Sequence[Answers] | None = None
) -> tuple[Answers, list[np.ndarray]]:
    """A policy's n answers to each prompt; and its log-probabilities [B, N] of others' answers; None: of its own."""
    opened = open_model(path)
    own = write(opened, asked, n, seed, size, title)
    return own, logps_of(opened, asked, [own] if others is None else others, size, title)


def write(opened: Opened, asked: Questions, n: int, seed: int, slots: int, title: str) -> Answers:
    """A policy's answers at temperature 1."""
    sampler = Sampler(
        opened.model,
        opened.mesh,
        SamplingConfig(),
        stop_ids=sorted(asked.stop_ids),
        context=opened.config.model.context,
        slots=min(slots, len(asked.prompts) * n),
    )
    with progress(f"{title}: sampling", len(asked.prompts) * n, "answers") as advance:
        done = 0

        def count(stats: Stats) -> None:
            nonlocal done
            advance(stats.completions - done)
            done = stats.completions

        prompts = [prompt.ids for prompt in asked.prompts]
        found, _ = sampler(opened.params, prompts, n=n, max_new_tokens=asked.max_new_tokens, seed=seed, progress=count)
    tokens = [[completion.tokens for completion in row] for row in found]
    texts = [
        [written(prompt.said, ids, opened.tokenizer, asked.stop_ids) for ids in row]
        for prompt, row in zip(asked.prompts, tokens, strict=True)
    ]
    return Answers(texts, tokens)


def logps_of(
    opened: Opened, asked: Questions, answers: Sequence[Answers], batch_size: int, title: str
) -> list[np.ndarray]:
    """Of each of the answers [B, N] the log-probability of all its tokens under a policy, nats, computed in float32.

    The same answers are put in the same rows, so that equal policies give equal numbers.
    """
    compute = dataclasses.replace(opened.config.compute, dtype="float32", attention="auto", remat="none")
    model = build_model(opened.config.model, compute, opened.mesh)
    scorer = text_scorer(logp_scorer(model), opened.mesh, batch_size, row_lengths(asked.longest))
    found = []
    for each in answers:
        texts = [
            Text(np.asarray([*prompt.ids, *ids], np.int32), np.repeat([False, True], [n, len(ids)]), n)
            for prompt, row in zip(asked.prompts, each.tokens, strict=True)
            for ids in row
            for n in [len(prompt.ids)]
        ]
        with progress(f"{title}: log-probabilities", sum(len(text.ids) for text in texts), "tokens") as advance:
            found.append(scorer(opened.params, texts, advance).reshape(len(asked.prompts), -1).astype(np.float64))
    return found
