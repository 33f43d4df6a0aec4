"""`bench ppo`, `grpo`, `rloo`: whole rounds of the source, step and loop of `train`, on random weights and prompts.

No tokenizer is asked: an answer's text is its ids, which a reward model reads as they are and a grader as any text.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxrl_llm.assemble import Assembly, assemble, role_key
from jaxrl_llm.benchmarks.figures import Figures, describe_compute, describe_mesh, describe_model, peak_memory, speed
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import DataConfig, PromptDataConfig
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import Text
from jaxrl_llm.models import build_model
from jaxrl_llm.parallel.offload import to_host
from jaxrl_llm.random_data import random_rows
from jaxrl_llm.rollout.config import ModelRewardConfig, TaskRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.rollouts import make_source
from jaxrl_llm.scorers import in_compute_dtype, scorer_of, task_scorer
from jaxrl_llm.tasks import build_task
from jaxrl_llm.training.console import si
from jaxrl_llm.training.loop import fit
from jaxrl_llm.types import TrainState


class Round(NamedTuple):
    """Seconds of a round, which they sum to."""

    sample: float  # the policy writes
    score: float  # reward models and graders rate
    prepare: float  # old log-probabilities, reference, critic, advantages
    update: float  # what remains: the updates, to the end of the last one


def bench_rollouts(
    config: Config, rounds: int, warmup: int, prompt_length: int, answer_length: int, began: float
) -> Figures:
    """Rounds of answers of exactly `answer_length` tokens to prompts of `prompt_length`; `began`: when the command did.

    Raises:
        UserError: they do not fit into the model's context, or a round is none for this algorithm and these devices.
    """
    config = of_lengths(config, prompt_length, answer_length)
    parts = assemble(config)
    source = random_source(config, parts)
    state = parts.new_state(parts.init_params(config.seed), config.seed)
    state, first = run_round(state, parts, source)
    first_s = time.perf_counter() - began
    for _ in range(warmup - 1):
        state, _ = run_round(state, parts, source)
    timed: list[Round] = []
    for _ in range(rounds):
        state, found = run_round(state, parts, source)
        timed.append(found)
    mean, seconds = Round(*np.mean(timed, axis=0)), [sum(each) for each in timed]
    total = float(np.mean(seconds))
    written = config.rollout.prompts * config.rollout.n * answer_length / mean.sample
    learnt = source.tokens_per_step * source.updates_per_round / mean.update
    return {
        "model": describe_model(config, parts),
        "roles": describe_roles(config),
        "work": describe_round(config, prompt_length),
        "compute": describe_compute(config),
        "devices": describe_mesh(parts.mesh),
        "round": f"{total:.3f} s over {rounds} rounds, {min(seconds):.3f} to {max(seconds):.3f}",
        **{name: f"{part:.4f} s, {100 * part / total:.1f} %" for name, part in mean._asdict().items()},
        "tokens/s": f"{si(written)} written, {si(learnt)} learnt from (places of rows, prompts included)",
        **{
            f"{name}, update": figure
            for name, figure in speed(learnt * parts.flops_per_token(source.length), parts.mesh).items()
        },
        "memory, peak": peak_memory(),
        "compile": f"{sum(first) - total:.1f} s, by which the first round was longer",
        "first round": f"{first_s:.1f} s after the command",
    }


def of_lengths(config: Config, prompt_length: int, answer_length: int) -> Config:
    """The config with rounds of these lengths, all of whose updates are done.  Raises UserError where they are long."""
    if prompt_length + answer_length > config.model.context:
        raise UserError(
            f"--prompt-length {prompt_length} and --answer-length {answer_length} are more than "
            f"model.context={config.model.context}\n  mend: fewer tokens, or a larger model.context"
        )
    lengths: dict[str, Any] = {"max_prompt_tokens": prompt_length, "max_new_tokens": answer_length}
    return replace(config, rollout=replace(config.rollout, **lengths, stop_kl=None, samples=0))


def run_round(state: TrainState, parts: Assembly, source: RolloutSource) -> tuple[TrainState, Round]:
    """One round through the loop of `train`, waited for."""
    made: Mapping[str, float] = {}

    def see(number: int, state: TrainState, metrics: Mapping[str, Array], source_metrics: Mapping[str, float]) -> None:
        nonlocal made
        made = source_metrics

    began = time.perf_counter()
    state = fit(state, parts.step, source, int(state.step) + source.updates_per_round, [see])
    jax.block_until_ready(state)
    sample, score, prepare = (made[f"{name}_s"] for name in ("sample", "score", "prepare"))
    return state, Round(sample, score, prepare, time.perf_counter() - began - sample - score - prepare)


def random_source(config: Config, parts: Assembly) -> RolloutSource:
    """The source of `train` over random prompts that fill the config's lengths; no token ends an answer."""
    data, rollout = config.data, config.rollout
    assert isinstance(data, PromptDataConfig)
    assert rollout.max_prompt_tokens is not None
    longest = rollout.max_prompt_tokens + rollout.max_new_tokens
    scorers: dict[str, Scorer] = {}
    examples: Sequence[Any] = [None] * rollout.prompts
    for name, part in rollout.rewards.parts.items():
        if isinstance(part, ModelRewardConfig):
            scorers[name] = random_reward_model(config, parts, name, longest)
        elif isinstance(part, TaskRewardConfig):
            assert data.task is not None, "the checks of the config have looked"
            task = build_task(data.task)
            scorers[name] = task_scorer(task)
            examples = task.examples("train", rollout.prompts, data.problems_seed)
    shape = rollout.prompts, rollout.max_prompt_tokens
    ids = np.random.default_rng(config.seed).integers(0, config.model.vocab_size, shape).tolist()
    prompts = [
        Prompt(tuple(row), "", f"random prompt {number}", example=example)
        for number, (row, example) in enumerate(zip(ids, examples, strict=True))
    ]
    text = None
    if data.pretrain is not None:
        text = random_rows(
            replace(config, data=DataConfig(length=data.pretrain_length)), parts, 0, data.pretrain_length
        )
    return make_source(
        config,
        parts,
        prompts,
        stop_ids=frozenset(),
        to_text=lambda ids: " ".join(map(str, ids)),
        scorers=scorers,
        pretraining=(None if text is None else lambda update: text, ""),
    )


def random_reward_model(config: Config, parts: Assembly, name: str, longest: int) -> Scorer:
    """A reward model of the policy's shape that reads ids where others read text."""
    compute = replace(config.compute, attention="auto", remat="none")  # as those are opened that are on disk
    model = build_model(config.model, compute, parts.mesh, "scalar")
    weights = in_compute_dtype(model, model.init(role_key(config.seed, name)), compute)
    if compute.offload == "frozen":
        weights = to_host(model.specs, weights, parts.mesh)

    def read(prompt: Prompt, text: str) -> Text:
        ids = np.asarray([*prompt.ids, *map(int, text.split())], np.int32)
        return Text(ids, np.arange(len(ids)) >= len(prompt.ids), len(prompt.ids))

    return scorer_of(
        model,
        weights,
        parts.mesh,
        read,
        batch_size=config.training.batch_size // config.training.micro_batches,
        context=config.model.context,
        bos_id=0,
        longest=longest,
        name=f"the reward model {name}",
        warn=lambda text: None,
    )


def describe_roles(config: Config) -> str:
    """What is trained, what is read, and who rates."""
    raters = [f"{name} ({part.kind})" for name, part in config.rollout.rewards.parts.items()]
    read = f"; read: {', '.join(config.algo.frozen)}" if config.algo.frozen else ""
    return f"trained: {', '.join(config.algo.trained)}{read}; rewards: {', '.join(raters)}"


def describe_round(config: Config, prompt_length: int) -> str:
    """`64 prompts of 256 x 1 answers of 256, 1 epoch(s) x 1 mini-batch(es) of 64 in 2 piece(s)`."""
    rollout, training = config.rollout, config.training
    mini_batches = rollout.prompts * rollout.n // training.batch_size
    return (
        f"{rollout.prompts} prompts of {prompt_length} x {rollout.n} answers of {rollout.max_new_tokens}, "
        f"{rollout.epochs} epoch(s) x {mini_batches} mini-batch(es) of {training.batch_size} "
        f"in {training.micro_batches} piece(s)"
    )
