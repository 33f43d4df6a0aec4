"""The sampler: many completions of many prompts through a fixed number of slots.

The host keeps the queue: a prompt is run once however many completions start from it, a slot whose completion ended is
filled again from the queue, so that one long answer does not hold the others up.  Every decision follows from what all
hosts read alike, so several hosts issue the same programs.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrl_llm.errors import UserError
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.slots import Prompts, Slots, make_slot_functions
from jaxrl_llm.types import Model, Params

CHUNK = 16  # tokens between two looks at which slots are done, unless said otherwise
PREFILL_ROWS = 32  # prompts that are run at once, where a call has so many: a number, so that a length has one program
PREFILL_TOKENS = 8192  # and no more tokens of them than these, padding included
SMALLEST_BUCKET = 16  # prompts are padded to a power of two, at least this
CACHE_STEP = 64  # cache lengths are multiples of this, unless said otherwise


@dataclass(frozen=True)
class Completion:
    """What was written after a prompt."""

    tokens: list[int]  # as written, the end token included
    logp: np.ndarray  # float32 [len(tokens)] nats, under the distribution that the token was drawn from
    plain_logp: (
        np.ndarray
    )  # float32 [len(tokens)] nats, under softmax(logits): what a trainer computes at temperature 1
    ended: bool  # by an end token or a stop string, not by the limit


@dataclass
class Stats:
    """How a rollout went."""

    completions: int = 0
    tokens: int = 0  # written
    slots: int = 0
    prefills: int = 0  # prompts that were run
    prefill_rows: int = 0  # and in how many rows, padding included
    slot_steps: int = 0  # slots x steps: tokens that could have been written

    @property
    def occupancy(self) -> float:
        """Share of the slots' steps that wrote a token."""
        return self.tokens / max(self.slot_steps, 1)


@dataclass
class _Job:
    """One completion to write."""

    prompt: int
    sample: int


@dataclass
class _Rollout:
    """The host's view of one call."""

    queue: deque[_Job]
    owners: list[_Job | None]  # by slot
    ready: dict[int, tuple[Prompts, int]] = field(default_factory=dict)  # prompt -> where it was run
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    stats: Stats = field(default_factory=Stats)


Watch = Callable[[int, int, list[int]], None]  # (prompt, sample, tokens so far), after every few tokens


class Sampler:
    """`sampler(params, prompts, n=4, max_new_tokens=256, seed=0)` -> for each prompt its n Completions, and Stats.

    A completion's randomness is fold_in(seed, prompt's index, sample, position): it does not depend on what else is
    written, bit for bit at the same number of slots and length of cache, to rounding otherwise.

    Args:
        model: the policy.
        mesh: that its params lie on.
        sampling: the distribution.
        stop_ids: tokens that end a completion.
        context: longest prompt and completion together.
        slots: completions written at once, at most.
        stop_strings: text that ends a completion, cut after the token that completes it; needs `to_text`.
        to_text: ids -> text.
        refill: fill slots again when their completions end; False waits for all of them, for comparison.
        chunk: tokens between two looks at what is done; few where someone watches.
        cache_step: lengths of the cache are multiples of this; each other length compiles anew.
    """

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        sampling: SamplingConfig,
        *,
        stop_ids: Sequence[int],
        context: int,
        slots: int = 64,
        stop_strings: Sequence[str] = (),
        to_text: Callable[[Sequence[int]], str] | None = None,
        refill: bool = True,
        chunk: int = CHUNK,
        cache_step: int = CACHE_STEP,
    ) -> None:
        self._functions = make_slot_functions(model, mesh, sampling, tuple(stop_ids))
        self._context, self._refill, self._chunk = context, refill, chunk
        self._cache_step = cache_step
        self._stop_ids, self._stop_strings, self._to_text = frozenset(stop_ids), tuple(stop_strings), to_text
        ways = mesh.shape["data"]
        self._slots = -(-slots // ways) * ways
        self._keys = jax.jit(jax.vmap(_key, in_axes=(None, 0, 0)))

    def __call__(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        *,
        n: int = 1,
        max_new_tokens: int | Sequence[int],
        seed: int,
        room: int = 0,
        watch: Watch | None = None,
        progress: Callable[[Stats], None] | None = None,
    ) -> tuple[list[list[Completion]], Stats]:
        """See the class.  Prompts are ids, BOS included; `max_new_tokens` is one number, or one for each prompt.

        With `room` the cache holds so many tokens at least: calls that say the same run the same programs.

        Raises:
            UserError: a prompt is empty, or longer than the context leaves room for.
        """
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        self._check(prompts, limits)
        weights = self._functions.prepare(params)
        jobs = deque(_Job(prompt, sample) for prompt in range(len(prompts)) for sample in range(n))
        n_slots = self._slots
        longest = max(room, *(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)))
        slots = self._functions.empty(n_slots, self._rounded(longest), self._rounded(max(limits)))
        rollout = _Rollout(queue=jobs, owners=[None] * n_slots, counts=np.zeros(n_slots, np.int32))
        rollout.stats.slots = n_slots
        done: list[list[Completion | None]] = [[None] * n for _ in prompts]
        while rollout.queue or any(rollout.owners):
            if rollout.queue and (self._refill or not any(rollout.owners)):
                slots = self._fill(weights, slots, rollout, prompts, limits, seed)
            watched = watch is not None or bool(self._stop_strings)
            most = self._chunk if rollout.queue or watched else max(limits)
            slots = self._functions.write(weights, slots, most, self._may_be_done(rollout))
            slots = self._stop(slots, rollout) if self._stop_strings else slots
            for job, completion in self._harvest(slots, rollout, watch):
                done[job.prompt][job.sample] = completion
            if progress is not None:
                progress(rollout.stats)
        return done, rollout.stats  # type: ignore[return-value]  # no place is None any more

    def _rounded(self, length: int) -> int:
        return -(-length // self._cache_step) * self._cache_step

    def _check(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True), start=1):
            if not len(prompt):
                raise UserError(f"prompt {i} is empty: it needs at least one token")
            if len(prompt) + limit > self._context:
                raise UserError(
                    f"prompt {i} has {len(prompt)} tokens; with {limit} new ones it exceeds the model's "
                    f"context of {self._context}\n  mend: a shorter prompt, or fewer new tokens"
                )

    def _may_be_done(self, rollout: _Rollout) -> int:
        """While others wait, a few slots may stand idle before the host is asked to fill them."""
        n_slots, idle = len(rollout.owners), sum(owner is None for owner in rollout.owners)
        return idle + n_slots // 32 if rollout.queue and self._refill else n_slots

    def _fill(
        self,
        weights: Params,
        slots: Slots,
        rollout: _Rollout,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seed: int,
    ) -> Slots:
        """Start the next completions in the free slots; one `insert` for each batch of prompts they come from."""
        starts: dict[int, tuple[Prompts, np.ndarray]] = {}
        jobs = [_Job(0, 0)] * len(rollout.owners)
        for slot, owner in enumerate(rollout.owners):
            if owner is not None or not rollout.queue:
                continue
            job = rollout.queue[0]
            if job.prompt not in rollout.ready:
                slots = self._insert(slots, starts, jobs, limits, seed)  # what was run before is let go first
                starts = {}
                self._prefill(weights, rollout, prompts)
            rollout.queue.popleft()
            batch, row = rollout.ready[job.prompt]
            rows_B = starts.setdefault(id(batch), (batch, np.full(len(rollout.owners), -1, np.int32)))[1]
            rows_B[slot] = row
            rollout.owners[slot] = jobs[slot] = job
            rollout.counts[slot] = 0
            if not rollout.queue or rollout.queue[0].prompt != job.prompt:
                del rollout.ready[job.prompt]  # its last completion has started: the batch is freed with its last
        return self._insert(slots, starts, jobs, limits, seed)

    def _insert(
        self,
        slots: Slots,
        starts: dict[int, tuple[Prompts, np.ndarray]],
        jobs: Sequence[_Job],
        limits: Sequence[int],
        seed: int,
    ) -> Slots:
        """Put completions into slots: from each batch of prompts those that `starts` says, slot by slot."""
        if not starts:
            return slots
        numbers = np.asarray([(job.prompt, job.sample) for job in jobs], np.uint32)
        keys_B = self._keys(np.uint32(seed), numbers[:, 0], numbers[:, 1])
        limits_B = np.asarray([limits[job.prompt] for job in jobs], np.int32)
        for batch, rows_B in starts.values():
            slots = self._functions.insert(slots, batch, rows_B, keys_B, limits_B)
        return slots

    def _prefill(self, weights: Params, rollout: _Rollout, prompts: Sequence[Sequence[int]]) -> None:
        """Run the next prompt of the queue, and with it the next ones of the same padded length."""
        length = bucket(len(prompts[rollout.queue[0].prompt]))
        all_rows = 1 << (len(prompts) - 1).bit_length()
        n_rows = max(1, min(all_rows, len(rollout.owners), PREFILL_ROWS, PREFILL_TOKENS // length))
        chosen: list[int] = []
        for job in rollout.queue:
            if len(chosen) == n_rows:
                break
            fresh = job.prompt not in rollout.ready and job.prompt not in chosen[-1:]
            if fresh and bucket(len(prompts[job.prompt])) == length:
                chosen.append(job.prompt)
        tokens_PT, lengths_P = np.zeros((n_rows, length), np.int32), np.ones(n_rows, np.int32)
        for row, prompt in enumerate(chosen):
            ids = prompts[prompt]
            tokens_PT[row, : len(ids)], lengths_P[row] = ids, len(ids)
        batch = self._functions.prefill(weights, tokens_PT, lengths_P)
        rollout.ready |= {prompt: (batch, row) for row, prompt in enumerate(chosen)}
        rollout.stats.prefills += len(chosen)
        rollout.stats.prefill_rows += n_rows

    def _stop(self, slots: Slots, rollout: _Rollout) -> Slots:
        """End the completions in which a stop string now stands."""
        tokens_BN, count_B = jax.device_get((slots.tokens_BN, slots.count_B))
        found_B = np.asarray(
            [
                owner is not None and self._first_stop(tokens_BN[slot, : count_B[slot]].tolist()) is not None
                for slot, owner in enumerate(rollout.owners)
            ]
        )
        return self._functions.stop(slots, found_B) if found_B.any() else slots

    def _first_stop(self, tokens: list[int]) -> int | None:
        """How many tokens there are when the first stop string is complete, or None."""
        if self._to_text is None or not self._has_stop(tokens):
            return None
        low, high = 1, len(tokens)  # the text of a prefix is a prefix of the text, so this can be halved
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._has_stop(tokens[:middle]) else (middle + 1, high)
        return low

    def _has_stop(self, tokens: list[int]) -> bool:
        assert self._to_text is not None
        text = self._to_text(tokens)
        return any(stop in text for stop in self._stop_strings)

    def _harvest(self, slots: Slots, rollout: _Rollout, watch: Watch | None) -> Iterator[tuple[_Job, Completion]]:
        """The completions that are done; their slots are free."""
        count_B, done_B = jax.device_get((slots.count_B, slots.done_B))
        written_B = np.where([owner is not None for owner in rollout.owners], count_B - rollout.counts, 0)
        rollout.counts = np.array(count_B)
        rollout.stats.tokens += int(written_B.sum())
        rollout.stats.slot_steps += int(written_B.max()) * len(rollout.owners)
        finished = [slot for slot, owner in enumerate(rollout.owners) if owner is not None and done_B[slot]]
        if not finished and watch is None:
            return
        tokens_BN, logp_BN, plain_BN = jax.device_get((slots.tokens_BN, slots.logp_BN, slots.plain_BN))
        if watch is not None:
            for slot, owner in enumerate(rollout.owners):
                if owner is not None:
                    watch(owner.prompt, owner.sample, tokens_BN[slot, : count_B[slot]].tolist())
        for slot in finished:
            job, count = rollout.owners[slot], int(count_B[slot])
            assert job is not None
            tokens = tokens_BN[slot, :count].tolist()
            cut = self._first_stop(tokens) if self._stop_strings else None
            ended = cut is not None or tokens[-1] in self._stop_ids
            size = cut or count
            rollout.owners[slot] = None
            rollout.stats.completions += 1
            yield job, Completion(tokens[:size], logp_BN[slot, :size].copy(), plain_BN[slot, :size].copy(), ended)


def bucket(length: int) -> int:
    """The padded length of a prompt."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _key(seed: Array, prompt: Array, sample: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), sample)
