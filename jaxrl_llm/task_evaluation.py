"""A language model on the problems of a task: right answers, greedily and among samples, and what training gained."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrl_llm.alike import same_texts
from jaxrl_llm.answering import Answered, greedy_figures, make_answering
from jaxrl_llm.config import Config
from jaxrl_llm.config.layers import parse_overrides
from jaxrl_llm.config.validate import build
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.config import TaskEvalConfig
from jaxrl_llm.evals.generation import bootstrap, sampled, split_gain
from jaxrl_llm.evaluation import progress
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.saved import Opened, find_model, open_model
from jaxrl_llm.scorers import model_scorer
from jaxrl_llm.tasks import TASKS, TaskConfig, build_task
from jaxrl_llm.tasks.task import Task
from jaxrl_llm.types import Json

PROBLEMS = 2000  # of a task without end
LONGEST = 256  # tokens of an answer, where no config says so
SLOTS = 64  # answers written at once
SCORED = 64  # problems whose samples a reward model is given at a time
EXAMPLE = "--task arithmetic difficulty=1, or --task gsm8k path=train.jsonl test_path=test.jsonl"


def evaluate_task(
    path: str,
    *,
    task: Sequence[str] | None = None,
    problems: int | None = None,
    n: int = 1,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    reward: str | None = None,
    before: str | None = None,
    template: str | None = None,
    batch_size: int | None = None,
) -> tuple[Json, list[Json]]:
    """How many problems of a task's test split a language model solves.

    Args:
        path: the model; see `saved.open_model`.
        task: a kind and its settings, key=value; None: that of the model's config.
        problems: how many; None: PROBLEMS of a task without end, all of another.
        n: samples of each problem besides the greedy answer; 1: none.
        temperature: of the samples; None: 1.
        max_new_tokens: longest answer; None: as in the config that has the task, else LONGEST.
        seed: which problems, and of the samples.
        reward: a reward model, which chooses among the samples.
        before: another model, whose greedy answers to the same problems say what was gained.
        template: in which problems are asked; None: each model's own.
        batch_size: answers that are written, or scored, at a time; None: SLOTS.

    Returns:
        `suite`, `model`, `task`, `notes`; `greedy`, of `answering.greedy_figures`; `before`, the same of that model,
        and `gain`; `samples`, of `evals.generation.sampled`; each None where it was not asked for.
        And a row for each problem: {origin, question, value, greedy, before, samples}, of each answer {text, answer,
        right, ended, tokens, reward}.

    Raises:
        UserError: of models, tasks and numbers that are not as described.
    """
    config, longest = find_task(path, task)
    built, longest = build_task(config), max_new_tokens or longest
    size = built.size("test") if problems is None else problems
    shared: dict[str, Any] = {"task": built, "problems": size or PROBLEMS, "max_new_tokens": longest, "seed": seed}
    shared |= {"slots": batch_size or SLOTS, "template": template}
    same_texts({"problems": built.examples("test", shared["problems"], seed)})
    if before is not None:
        find_model(before)  # an error comes before the work
    opened = open_model(path)
    scorer = None if reward is None else open_reward(reward, opened, batch_size or SLOTS)
    alone = answer(opened, "greedy", **shared)
    heat = 1.0 if temperature is None else temperature
    several = answer(opened, "samples", n=n, temperature=heat, **shared) if n > 1 else None
    rewards = None if several is None or scorer is None else score(several, scorer)
    template_name = find_template(opened.tokenizer, template).name
    del opened, scorer  # their memory is the other model's
    earlier = None if before is None else answer(open_model(before), "before", **shared)
    figures: Json = {
        "suite": "task",
        "model": path,
        "task": dataclasses.asdict(config),
        "greedy": described(alone),
        "before": None if earlier is None else {"model": before, **described(earlier)},
        "gain": None if earlier is None else gain(earlier, alone),
        "samples": None if several is None else sampled(several.right_BN, several.answers, rewards),
    }
    figures["notes"] = [
        f"{len(alone.prompts):,} problems of the test split (seed {seed}), asked by the template {template_name}; "
        f"answers of up to {longest:,} tokens.  Intervals are of 95 %, over problems.",
        *([] if several is None else [_samples_note(n, heat, reward)]),
        *([] if before is None else [_gain_note(before)]),
    ]
    return figures, rows(alone, earlier, several, rewards)


def find_task(path: str, words: Sequence[str] | None) -> tuple[TaskConfig, int]:
    """The task that is asked for, or that of the model's own config; and the tokens of its longest answer.

    Raises:
        UserError: there is no such task, or none or several in the config.
    """
    if words is not None:
        kind, *settings = words
        if kind not in TASKS:
            raise UserError(f"--task {kind}: there is no such task; there are {', '.join(TASKS)}\n  mend: {EXAMPLE}")
        layer = parse_overrides([f"task.kind={kind}", *(f"task.{setting}" for setting in settings)])
        return build(TaskEvalConfig, [layer], {})[0].task, LONGEST
    config: Config = find_model(path).config
    if isinstance(config.data, PromptDataConfig) and config.data.task is not None:
        return config.data.task, config.rollout.max_new_tokens
    if len(config.eval.tasks) == 1:
        (only,) = config.eval.tasks.values()
        return only.task, only.max_new_tokens
    raise UserError(
        f"{path}: its config has {len(config.eval.tasks) or 'no'} tasks, so it must be said which is meant\n"
        f"  mend: {EXAMPLE}"
    )


def open_reward(path: str, opened: Opened, batch_size: int) -> Scorer:
    """The scorer of a reward model, whatever its tokenizer."""
    part = ModelRewardConfig(path=path, retokenise=True)
    return model_scorer(part, opened.mesh, batch_size=batch_size, policy_tokenizer=opened.tokenizer)


def answer(
    opened: Opened,
    title: str,
    *,
    task: Task,
    template: str | None,
    problems: int,
    n: int = 1,
    **how: Any,
) -> Answered:
    """The model's answers to the problems, with a bar of how far it is; `how` as of `make_answering`."""
    answering = make_answering(
        opened.model,
        opened.mesh,
        opened.tokenizer,
        find_template(opened.tokenizer, template),
        task,
        problems=problems,
        context=opened.config.model.context,
        n=n,
        **how,
    )
    with progress(title, problems * n, "answers") as advance:
        return answering(opened.params, advance)


def score(answered: Answered, scorer: Scorer) -> np.ndarray:
    """float32 [B, N]: what a reward model gives each answer."""
    found, n = [], answered.right_BN.shape[1]
    with progress("scoring", len(answered.prompts) * n, "answers") as advance:
        for first in range(0, len(answered.prompts), SCORED):
            prompts, texts = answered.prompts[first : first + SCORED], answered.texts[first : first + SCORED]
            each = scorer([prompt for prompt in prompts for _ in range(n)], [text for row in texts for text in row])
            found.append(each.reshape(-1, n))
            advance(each.size)
    return np.concatenate(found)


def described(answered: Answered) -> Json:
    """`greedy_figures`; what is not known is None."""
    found = greedy_figures(answered)
    rate = found["accuracy_of_parsed"]
    return found | {"accuracy_of_parsed": None if math.isnan(rate) else rate}


def gain(before: Answered, after: Answered) -> Json:
    """`accuracy`, by how much it rose, with the `interval` over problems that both answered; and its parts, `format`
    and `reasoning` (`evals.generation.split_gain`).
    """
    rise_B1 = after.right_BN[:, :1].astype(float) - before.right_BN[:, :1]
    parts = split_gain(greedy_figures(before), greedy_figures(after))
    return {"accuracy": float(rise_B1.mean()), "interval": bootstrap(rise_B1)[0], **parts}


def rows(alone: Answered, earlier: Answered | None, several: Answered | None, rewards: np.ndarray | None) -> list[Json]:
    """A row for each problem."""
    found = []
    for b, prompt in enumerate(alone.prompts):
        assert prompt.example is not None
        row: Json = {"origin": prompt.origin, "question": prompt.example.question, "value": str(prompt.example.value)}
        row["greedy"] = _answer_row(alone, b, 0)
        if earlier is not None:
            row["before"] = _answer_row(earlier, b, 0)
        if several is not None:
            given = {} if rewards is None else {"reward": rewards[b]}
            row["samples"] = [
                _answer_row(several, b, i) | {name: float(reward_N[i]) for name, reward_N in given.items()}
                for i in range(several.right_BN.shape[1])
            ]
        found.append(row)
    return found


def _answer_row(answered: Answered, b: int, n: int) -> Json:
    read = answered.answers[b][n]
    return {
        "text": answered.texts[b][n],
        "answer": None if read is None else str(read),
        "right": bool(answered.right_BN[b, n]),
        "ended": bool(answered.ended_BN[b, n]),
        "tokens": int(answered.lengths_BN[b, n]),
    }


def _samples_note(n: int, temperature: float, reward: str | None) -> str:
    best = "" if reward is None else f"; best of k: the one that {reward} scores highest is"
    return (
        f"{n} samples of each at temperature {temperature:g}.  pass@k: one of k samples is right; maj@k: their most "
        f"frequent answer is{best}."
    )


def _gain_note(before: str) -> str:
    return (
        f"Before: {before}, on the same problems.  Of the gain, format is what more answers that can be read make, and "
        "reasoning what more right ones among these make."
    )
