"""A policy on the problems of a task: its answers and their grades, in `evaluate` and during training."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.data.chat import Template
from jaxrl_llm.data.prompts import ask, written
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.config import TaskEvalConfig
from jaxrl_llm.evals.generation import greedy
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.sampler import Sampler, Stats
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.tasks import Task, build_task
from jaxrl_llm.tasks.task import Split, grade_all
from jaxrl_llm.types import Model, Params


@dataclass(frozen=True)
class Answered:
    """B problems with N answers each."""

    prompts: list[Prompt]
    texts: list[list[str]]  # [B][N]
    answers: list[list[Hashable | None]]  # what was read off each; None: no answer
    right_BN: np.ndarray  # bool
    parsed_BN: np.ndarray  # bool
    ended_BN: np.ndarray  # bool: by itself, not by the limit
    lengths_BN: np.ndarray  # int tokens, the end token included


# answer(params, advance): all problems, by these weights; advance(n) is told how many more answers are there
Answer = Callable[..., Answered]


def make_answering(
    model: Model,
    mesh: Mesh,
    tokenizer: Tokenizer,
    template: Template,
    task: Task,
    *,
    problems: int,
    max_new_tokens: int,
    context: int,
    split: Split = "test",
    seed: int = 0,
    n: int = 1,
    temperature: float = 0.0,
    slots: int = 64,
) -> Answer:
    """`answer(params, advance)` -> Answered; nothing is compiled anew when it is called again.

    Args:
        model: the policy.
        mesh: that its params will lie on.
        tokenizer: the policy's.
        template: in which the problems are asked.
        task: whose problems.
        problems: how many.
        max_new_tokens: longest answer, its end token included.
        context: longest prompt and answer together, in tokens.
        split: of the task.
        seed: which problems, and of what is drawn.
        n: answers to each problem.
        temperature: of the answers; 0 takes the likeliest token.
        slots: answers that are written at once.

    Raises:
        UserError: there are not so many problems, or one with its answer is longer than the context.
    """
    examples = task.examples(split, problems, seed)
    asked = ask([example.prompt for example in examples], tokenizer, template)
    for example, ids in zip(examples, asked.ids, strict=True):
        if len(ids) + max_new_tokens > context:
            raise UserError(
                f"{example.origin or example.question[:80]}: the problem has {len(ids):,} tokens, and with an answer "
                f"of {max_new_tokens:,} it exceeds the context of {context:,}\n"
                "  mend: fewer max_new_tokens, or a model of a longer context"
            )
    prompts = [
        Prompt(tuple(ids), example.prompt, example.origin, example=example)
        for example, ids in zip(examples, asked.ids, strict=True)
    ]
    sampler = Sampler(
        model,
        mesh,
        SamplingConfig(temperature=temperature),
        stop_ids=sorted(asked.stop_ids),
        context=context,
        slots=min(slots, problems * n),
    )

    def answer(params: Params, advance: Callable[[int], object] = lambda n_answers: None) -> Answered:
        done = 0

        def count(stats: Stats) -> None:
            nonlocal done
            advance(stats.completions - done)
            done = stats.completions

        found, _ = sampler(params, asked.ids, n=n, max_new_tokens=max_new_tokens, seed=seed % 2**32, progress=count)
        texts = [
            [written(prompt.said, completion.tokens, tokenizer, asked.stop_ids) for completion in completions]
            for prompt, completions in zip(prompts, found, strict=True)
        ]
        grades = grade_all(task, [text for each in texts for text in each], [e for e in examples for _ in range(n)])
        answers = [[task.parse(text) for text in each] for each in texts]
        return Answered(
            prompts,
            texts,
            answers,
            right_BN=grades.reshape(-1, n) == 1.0,
            parsed_BN=np.asarray([[each is not None for each in row] for row in answers]),
            ended_BN=np.asarray([[completion.ended for completion in row] for row in found]),
            lengths_BN=np.asarray([[len(completion.tokens) for completion in row] for row in found]),
        )

    return answer


def make_task_evaluation(
    tasks: Mapping[str, TaskEvalConfig],
    model: Model,
    mesh: Mesh,
    tokenizer: Tokenizer,
    template: Template,
    context: int,
) -> Callable[[Params], dict[str, dict[str, float]]]:
    """`evaluate(params)`: of every task by name what `task_metrics` says of the policy's greedy answers.

    Raises:
        UserError: see `make_answering`; with the task's name.
    """
    answering: dict[str, Answer] = {}
    for name, config in tasks.items():
        try:
            answering[name] = make_answering(
                model,
                mesh,
                tokenizer,
                template,
                build_task(config.task),
                problems=config.problems,
                max_new_tokens=config.max_new_tokens,
                context=context,
                seed=config.seed,
                slots=config.slots,
            )
        except UserError as error:
            raise UserError(f"eval.tasks.{name}: {error}") from error
    return lambda params: {name: task_metrics(answer(params)) for name, answer in answering.items()}


def task_metrics(answered: Answered) -> dict[str, float]:
    """`greedy_figures` as numbers by name: the interval's ends are `accuracy_low` and `accuracy_high`, and what is not
    known is left out.
    """
    found = greedy_figures(answered)
    low, high = found.pop("interval")
    found |= {"accuracy_low": low, "accuracy_high": high}
    return {name: float(value) for name, value in found.items() if not math.isnan(value)}


def greedy_figures(answered: Answered) -> dict[str, Any]:
    """`evals.generation.greedy` of the first answer to each problem, and `length`, its mean in tokens."""
    right_B, parsed_B, ended_B, lengths_B = (
        each[:, 0] for each in (answered.right_BN, answered.parsed_BN, answered.ended_BN, answered.lengths_BN)
    )
    return greedy(right_B, parsed_B, ended_B) | {"length": float(lengths_B.mean())}
