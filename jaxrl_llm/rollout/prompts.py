"""What the policy is asked, and in which order: an endless shuffle of the prompts, each once a pass."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks.task import Example

# What random numbers of a seed are for.
ORDER, MINI_BATCHES, SAMPLES = range(3)


@dataclass(frozen=True)
class Prompt:
    """What is asked, in every form that someone reads."""

    ids: tuple[int, ...]  # what the policy reads, BOS included
    said: str | tuple[Mapping[str, str], ...]  # text to go on with, or messages
    origin: str  # "file:line", for errors
    safety: bool = False  # it is about safety: combine=safety_first
    example: Example | None = None  # what a task's grader compares with


def keep_fitting(
    prompts: Sequence[Prompt], longest: int, overlong: Literal["stop", "drop"]
) -> tuple[list[Prompt], int]:
    """The prompts of at most `longest` tokens, and how many were dropped.

    Raises:
        UserError: one is empty; one is too long, and that is to stop; none is left.
    """
    for prompt in prompts:
        if not prompt.ids:
            raise UserError(f"{prompt.origin}: the prompt is empty: it needs at least one token")
        if len(prompt.ids) > longest and overlong == "stop":
            raise UserError(
                f"{prompt.origin}: the prompt has {len(prompt.ids)} tokens, and {longest} is the most\n"
                "  mend: rollout.overlong=drop leaves such prompts out; or fewer rollout.max_new_tokens, or a larger "
                "rollout.max_prompt_tokens or context"
            )
    kept = [prompt for prompt in prompts if len(prompt.ids) <= longest]
    if not kept:
        raise UserError(
            f"none of the {len(prompts)} prompts has at most {longest} tokens\n  mend: other prompts, "
            "fewer rollout.max_new_tokens, or a larger rollout.max_prompt_tokens or context"
        )
    return kept, len(prompts) - len(kept)


def drawn(n_prompts: int, seed: int, first: int, count: int) -> list[int]:
    """Elements `first` .. `first + count - 1` of the endless order; element i depends on i and the seed alone."""
    return [int(_order(n_prompts, seed, i // n_prompts)[i % n_prompts]) for i in range(first, first + count)]


def permutation(n: int, *numbers: int) -> np.ndarray:
    """int64 [n]: a shuffle of 0 .. n - 1 that these numbers decide, the same with every version of NumPy."""
    return np.argsort(np.random.SeedSequence(numbers).generate_state(n, np.uint64), kind="stable")


@functools.lru_cache(maxsize=4)
def _order(n_prompts: int, seed: int, lap: int) -> np.ndarray:
    return permutation(n_prompts, seed, ORDER, lap)
