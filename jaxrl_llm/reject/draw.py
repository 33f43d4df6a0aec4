"""Answers of a model, a chunk of prompts at a time.

A chunk is a file, and depends on its number and the seed alone: a run that was cut short goes on with the next one, and
writes what an undisturbed run would have written.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jaxrl_llm.data.prompts import written
from jaxrl_llm.parallel.distributed import is_main
from jaxrl_llm.reject.files import write_rows
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.sampler import Completion, Sampler, Stats
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import Opened


@dataclass(frozen=True)
class Drawn:
    """The N answers of one model to one prompt; none where the prompt was too long for it."""

    texts: list[str]
    ended: list[bool]  # by itself, not by the limit
    tokens: list[int]  # how many, the end token included


NOTHING = Drawn([], [], [])


@dataclass(frozen=True)
class Chunk:
    """How the answers to some of the prompts came about."""

    drawn: list[Drawn]  # a prompt each
    tokens: int
    seconds: float  # of the sampler; 0 where they were there already
    prefills: int  # prompts that were run

    @property
    def answers(self) -> int:
        """How many."""
        return sum(len(each.texts) for each in self.drawn)


Advance = Callable[[int], object]  # told how many more answers are there
Draw = Callable[[Advance], Iterator[Chunk]]


def make_draw(
    opened: Opened,
    prompts: Sequence[Prompt | None],
    sampling: SamplingConfig,
    *,
    stop_ids: frozenset[int],
    stop_strings: Sequence[str] = (),
    n: int,
    max_new_tokens: int,
    slots: int,
    chunk: int,
    seed: tuple[int, str],
    folder: Path,
) -> Draw:
    """`draw(advance)`: the answers of a model to all prompts, chunk by chunk; those on disk are read from there.

    Args:
        opened: the model.
        prompts: with its ids; None: it is not asked.
        sampling: the distribution.
        stop_ids: tokens that end an answer.
        stop_strings: text that ends an answer.
        n: answers to each prompt.
        max_new_tokens: longest answer.
        slots: answers that are written at once.
        chunk: prompts at a time.
        seed: the run's, and a word for what is drawn.
        folder: of the chunks.
    """
    size = min(chunk, len(prompts))
    sampler = Sampler(
        opened.model,
        opened.mesh,
        sampling,
        stop_ids=sorted(stop_ids),
        context=opened.config.model.context,
        slots=min(slots, size * n),
        stop_strings=stop_strings,
        to_text=opened.tokenizer.decode,
    )
    room = max((len(prompt.ids) for prompt in prompts if prompt is not None), default=0) + max_new_tokens

    def to_drawn(prompt: Prompt, completions: Sequence[Completion]) -> Drawn:
        return Drawn(
            [written(prompt.said, each.tokens, opened.tokenizer, stop_ids) for each in completions],
            [each.ended for each in completions],
            [len(each.tokens) for each in completions],
        )

    def sample(number: int, asked: Sequence[Prompt | None], advance: Advance) -> Chunk:
        fitting, done = [prompt for prompt in asked if prompt is not None], 0
        if not fitting:
            return Chunk([NOTHING for _ in asked], 0, 0.0, 0)
        began = time.perf_counter()

        def count(stats: Stats) -> None:
            nonlocal done
            advance(stats.completions - done)
            done = stats.completions

        found, stats = sampler(
            opened.params,
            [prompt.ids for prompt in fitting],
            n=n,
            max_new_tokens=max_new_tokens,
            seed=chunk_seed(*seed, number),
            room=room,
            progress=count,
        )
        seconds, answers = time.perf_counter() - began, iter(found)
        drawn = [NOTHING if prompt is None else to_drawn(prompt, next(answers)) for prompt in asked]
        return Chunk(drawn, stats.tokens, seconds, stats.prefills)

    def draw(advance: Advance) -> Iterator[Chunk]:
        for number, first in enumerate(range(0, len(prompts), size)):
            path = folder / f"{number:05}.jsonl"
            if path.is_file():
                chunk = read_chunk(path)
                advance(chunk.answers)
            else:
                chunk = sample(number, prompts[first : first + size], advance)
                if is_main():
                    write_rows(path, [asdict(each) for each in chunk.drawn])
            yield chunk

    return draw


def chunk_seed(seed: int, word: str, number: int) -> int:
    """What the samples of a chunk are drawn by."""
    return int(np.random.SeedSequence((seed, zlib.crc32(word.encode()), number)).generate_state(1)[0])


def read_chunk(path: Path) -> Chunk:
    """What `draw` wrote."""
    drawn = [Drawn(**json.loads(line)) for line in path.read_bytes().splitlines()]
    return Chunk(drawn, sum(sum(each.tokens) for each in drawn), 0.0, 0)
