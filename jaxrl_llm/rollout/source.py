"""Batches that the policy writes itself.

A round: prompts are drawn, the policy answers them, scorers rate the answers, `prepare` adds what the loss wants, and
epochs x mini-batches of its rows are served.  What was prepared is kept, so a run that goes on amid a round goes on
with the same bits.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import on_mesh
from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.rollout.config import RolloutConfig
from jaxrl_llm.rollout.prompts import MINI_BATCHES, SAMPLES, Prompt, drawn, keep_fitting, permutation
from jaxrl_llm.rollout.rewards import Composed, Moments, Scorer, Written, checked, compose
from jaxrl_llm.rollout.rows import check_rows, from_arrays, lay_out, make_cut, to_arrays
from jaxrl_llm.rollout.sampler import Completion
from jaxrl_llm.rollout.steering import Steering
from jaxrl_llm.types import Json, Params, Rollouts, Tokens, TrainState

ALIGNED = 8  # rows are a multiple of this long, where the context is: attention kernels want it


def row_length(tokens: int, context: int, parts: int = 1) -> int:
    """T of rows that hold so many tokens, and can be cut into `parts` along T; no longer than the model's context."""
    step = math.lcm(ALIGNED, parts)
    return min(-(-tokens // step) * step, context)


# sampler(weights, ids of prompts, n=, max_new_tokens=, seed=, room=) -> n completions of each prompt, and Stats
Sample = Callable[..., tuple[list[list[Completion]], Any]]


class RolloutSource:
    """Batches of the policy's own answers.  A `types.Source`.

    Several hosts sample by the same programs and each has all answers; each rates all of them, so scorers must give the
    same numbers everywhere.

    Args:
        config: how many answers to what, what they are worth, how far the policy may go.
        prompts: all there are.
        sampler: writes the answers, at `config.temperature`.
        policy_weights: the policy's weights of a state, whole, as the sampler reads them.
        to_text: ids of an answer, the end token included -> what scorers read.
        scorers: by name of the config's reward parts, penalties for length aside.
        prepare: prepare(state, rollouts [M, b, ...]) -> rollouts as the loss reads them; jitted.
        batch_size: answers of a mini-batch, of which a round has several where it has more answers.
        micro_batches: the cuts of a mini-batch.
        sharding: of arrays [M, b, T].
        context: longest prompt and answer together.
        seed: of the prompts' order, the samples and the mini-batches.
        kl_penalty: the loss is PPO's with surrogate=kl_penalty.
        pretrain: pretrain(number of the update, from 0) -> text [micro_batches, b, T'] for PPO-ptx.
        order: what else decides the batches, in words: another text where they are others.

    Who shows things sets `on_samples(rows)`, which is given some answers with their rewards now and then, and `warn`.

    Raises:
        UserError: a prompt is empty or too long; the answers cannot be cut into equal mini-batches.
    """

    def __init__(
        self,
        config: RolloutConfig,
        prompts: Sequence[Prompt],
        *,
        sampler: Sample,
        policy_weights: Callable[[TrainState], Params],
        to_text: Callable[[Sequence[int]], str],
        scorers: Mapping[str, Scorer],
        prepare: Callable[[TrainState, Rollouts], Rollouts],
        batch_size: int,
        micro_batches: int,
        sharding: NamedSharding,
        context: int,
        seed: int,
        kl_penalty: bool = False,
        pretrain: Callable[[int], Tokens] | None = None,
        order: str = "",
    ) -> None:
        self.on_samples: Callable[[list[Json]], None] = lambda rows: None
        self.warn: Callable[[str], None] = lambda text: None
        self._config, self._seed, self._kl_penalty = config, seed, kl_penalty
        longest = min(config.max_prompt_tokens or context, context - config.max_new_tokens)
        self.prompts, self.dropped = keep_fitting(prompts, longest, config.overlong)
        self._sampler, self._policy_weights, self._to_text = sampler, policy_weights, to_text
        self._scorers, self._prepare, self._pretrain = scorers, prepare, pretrain
        self._sharding, self._cut = sharding, make_cut(micro_batches, sharding)
        self._rows, self._size = config.prompts * config.n, batch_size
        check_rows(self._rows, batch_size, micro_batches, sharding)
        self._mini_batches = self._rows // batch_size  # of an epoch
        self._cuts = self._mini_batches * micro_batches
        self._steering = Steering(config, self._mini_batches, kl_penalty, lambda text: self.warn(text))
        assert scorers.keys() == {name for name, part in config.rewards.parts.items() if part.kind != "length"}
        longest_kept = config.max_prompt_tokens or max(len(prompt.ids) for prompt in self.prompts)
        # T of every round, so that one compilation serves all of them.
        tokens = min(longest_kept, longest) + config.max_new_tokens
        self.length = row_length(tokens, context, sharding.mesh.shape["context"])
        self.tokens_per_step = batch_size * self.length
        self.updates_per_round = config.epochs * self._mini_batches
        self._fingerprint = _fingerprint(self.prompts, config, order, seed, batch_size, micro_batches, self.length)
        self._round = 0  # rounds begun
        self._position = self.updates_per_round  # mini-batches of this round that were given
        self._given = 0  # mini-batches of all rounds
        self._rollouts: Rollouts | None = None  # this round's, prepared
        self._metrics: dict[str, float] = {}  # of making it
        self._moments = Moments()

    def next(self, state: TrainState) -> tuple[Rollouts, dict[str, float]]:
        """The next mini-batch [micro_batches, b, ...]; metrics of making its round, and seconds it was waited for."""
        began = time.perf_counter()
        if self._position >= self.updates_per_round:
            self._steering.end_round(self._round - 1)
            self._begin_round(state)
        assert self._rollouts is not None, "a round has begun"
        batch = self._cut(self._rollouts, self._rows_of(self._position))
        in_turn(batch)
        if self._pretrain is not None:
            batch = replace(batch, pretrain=self._pretrain(self._given))
        self._position += 1
        self._given += 1
        return batch, {**self._metrics, "data_wait_s": time.perf_counter() - began}

    def observe(self, metrics: Mapping[str, Array]) -> None:
        """Keeps what the next round depends on, unfetched; with `stop_kl` it is fetched, and may end the round."""
        if self._steering.see(metrics):
            self._position = self.updates_per_round

    def state(self) -> tuple[Json, Params]:
        """Where it stands, and the prepared rollout unless all of it was given."""
        used_up = self._position >= self.updates_per_round
        if used_up:
            self._steering.end_round(self._round - 1)
        arrays = {} if used_up or self._rollouts is None else to_arrays(self._rollouts)
        return {
            "round": self._round,
            "position": self._position,
            "given": self._given,
            "moments": dataclasses.asdict(self._moments),
            "steering": self._steering.state(),
            "metrics": self._metrics,
            "fingerprint": self._fingerprint,
            "arrays": {name: {"shape": list(x.shape), "dtype": str(x.dtype)} for name, x in arrays.items()},
        }, arrays

    def restore(self, json: Json, arrays: Params) -> None:
        """Continue with the mini-batch after the last one given, its bits included.

        Raises:
            UserError: the prompts or how they are answered are not those of the checkpoint.
        """
        if json.get("fingerprint") != self._fingerprint:
            raise UserError(
                "the rollouts changed since the checkpoint, so its place in them means nothing: the prompts, a reward "
                "model, a key of rollout, seed, training.batch_size or training.micro_batches is another\n"
                "  mend: put it back, or start a new run from these weights (init_from=RUN with another workdir)"
            )
        self._round, self._position, self._given = json["round"], json["position"], json["given"]
        self._moments, self._metrics = Moments(**json["moments"]), dict(json["metrics"])
        self._steering.restore(json["steering"])
        self._rollouts = from_arrays(self._on_mesh(arrays)) if arrays else None

    def _on_mesh(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Array]:
        return {name: on_mesh(np.asarray(array), self._sharding) for name, array in arrays.items()}

    def close(self) -> None:
        """Nothing to stop: a data set's source has threads, this has none."""

    def _begin_round(self, state: TrainState) -> None:
        """Sample, score, prepare."""
        config, began = self._config, time.perf_counter()
        self._rollouts = None  # its memory is free while the next is made
        numbers = drawn(len(self.prompts), self._seed, self._round * config.prompts, config.prompts)
        prompts = [self.prompts[number] for number in numbers]
        completions, stats = self._write(state, [prompt.ids for prompt in prompts])
        prompts = [prompt for prompt in prompts for _ in range(config.n)]
        texts = [self._to_text(completion.tokens) for completion in completions]
        sampled = time.perf_counter()
        composed = self._rate(prompts, completions, texts)
        scored = time.perf_counter()
        arrays = lay_out([prompt.ids for prompt in prompts], completions, composed.score_B, config.n, self.length)
        arrays["kl_coef_B"] = np.full(self._rows, self._steering.kl_coef, np.float32)
        if self._kl_penalty:
            arrays["penalty_coef_B"] = np.full(self._rows, self._steering.penalty_coef, np.float32)
        cut = {name: x.reshape(self._cuts, -1, *x.shape[1:]) for name, x in arrays.items()}
        self._rollouts = jax.block_until_ready(self._prepare(state, from_arrays(self._on_mesh(cut))))
        self._metrics = {
            **composed.metrics,
            **({"equal_groups": _equal_groups(composed.score_B, config.n)} if config.n > 1 else {}),
            "round": float(self._round),
            "kl_coef": self._steering.kl_coef,
            **({"penalty_coef": self._steering.penalty_coef} if self._kl_penalty else {}),
            "longest": float(max(len(completion.tokens) for completion in completions)),
            "prompts_dropped": float(self.dropped),
            "occupancy": float(stats.occupancy),
            "sample_s": sampled - began,
            "score_s": scored - sampled,
            "prepare_s": time.perf_counter() - scored,
        }
        if self._round % config.samples_every == 0 and config.samples:
            about = {"step": self._given + 1, "round": self._round}  # the first update that learns from them
            rows = _samples(prompts, completions, texts, composed)[: config.samples]
            self.on_samples([about | row for row in rows])
        self._steering.alarms.look_at_answers(self._round, composed.score_B, arrays["ended_B"])
        self._round += 1
        self._position = 0

    def _write(self, state: TrainState, ids: Sequence[Sequence[int]]) -> tuple[list[Completion], Any]:
        """The answers, those to one prompt side by side, and how sampling went."""
        weights = self._policy_weights(state)
        in_turn(weights)
        seed = int(np.random.SeedSequence((self._seed, SAMPLES, self._round)).generate_state(1)[0])
        config = self._config
        by_prompt, stats = self._sampler(
            weights, ids, n=config.n, max_new_tokens=config.max_new_tokens, seed=seed, room=self.length
        )
        return [completion for completions in by_prompt for completion in completions], stats

    def _rate(self, prompts: Sequence[Prompt], completions: Sequence[Completion], texts: Sequence[str]) -> Composed:
        """Rewards of the answers; the moments go on."""
        origins = [prompt.origin for prompt in prompts]
        parts = {name: checked(name, score(prompts, texts), origins) for name, score in self._scorers.items()}
        written = Written(
            ended_B=np.asarray([completion.ended for completion in completions]),
            lengths_B=np.asarray([len(completion.tokens) for completion in completions]),
            safety_B=np.asarray([prompt.safety for prompt in prompts]),
        )
        composed = compose(parts, written, self._config.rewards, self._moments)
        self._moments = composed.moments
        return composed

    def _rows_of(self, position: int) -> np.ndarray:
        """int64: rows of the round that are its mini-batch `position`, counted over epochs."""
        epoch, place = divmod(position, self._mini_batches)
        rows = np.arange(self._rows)
        if self._config.shuffle and self._mini_batches > 1:
            rows = permutation(self._rows, self._seed, MINI_BATCHES, self._round, epoch)
        return rows[place * self._size : (place + 1) * self._size]


def _equal_groups(score_B: np.ndarray, n: int) -> float:
    """Share of prompts whose answers all have one reward: where the others are the baseline, they teach nothing."""
    return float(np.mean(np.ptp(score_B.reshape(-1, n), axis=1) == 0))


def _samples(
    prompts: Sequence[Prompt], completions: Sequence[Completion], texts: Sequence[str], composed: Composed
) -> list[Json]:
    """A row for each answer: {"prompt", "completion", "reward", "parts", "ended", "tokens"}."""
    return [
        {
            "prompt": prompt.said,
            "completion": text,
            "reward": float(composed.score_B[row]),
            "parts": {name: float(part_B[row]) for name, part_B in composed.parts.items()},
            "ended": completion.ended,
            "tokens": completion.tokens,
        }
        for row, (prompt, completion, text) in enumerate(zip(prompts, completions, texts, strict=True))
    ]


def _fingerprint(prompts: Sequence[Prompt], config: RolloutConfig, order: str, *numbers: int) -> str:
    """Another one where the prompts are, or which of them are answered how often, or how answers are cut."""
    sizes = config.prompts, config.n, config.max_new_tokens, config.epochs, config.shuffle
    digest = hashlib.sha256(np.asarray([*sizes, *numbers], np.int64).tobytes() + order.encode())
    for prompt in prompts:
        digest.update(np.asarray([len(prompt.ids), *prompt.ids, prompt.safety], np.int64).tobytes())
    return digest.hexdigest()[:16]
