"""The device side of the sampler: a fixed number of slots, each writing one completion.

Three jitted functions: `prefill` runs prompts once, `insert` copies them into free slots, `write` lets all slots write
some tokens.  Which prompt goes where is the host's business (`sampler.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.rollout.sampling import SamplingConfig, draw
from jaxrl_llm.types import Model, Params


@struct.dataclass
class Slots:
    """What B slots are at; N is the longest completion."""

    cache: Any  # KVCache [B, S]
    logits_BV: Array  # float32, of the next token
    keys_B: Array  # PRNG keys: one for each completion, folded with the position for each token
    tokens_BN: Array  # int32, written so far
    logp_BN: Array  # float32, see sampling.Drawn
    plain_BN: Array  # float32, see sampling.Drawn
    count_B: Array  # int32, tokens written
    limit_B: Array  # int32, tokens that may be written
    done_B: Array  # bool: nothing more is written here; a free slot is done
    seen_BV: Array | None  # bool, tokens of prompt and completion; only for a repetition penalty


@struct.dataclass
class Prompts:
    """P prompts, run once; any number of slots may start from each."""

    cache: Any  # KVCache [P, T]
    logits_PV: Array  # float32, of the first token
    seen_PV: Array | None


@dataclass(frozen=True)
class SlotFunctions:
    """The jitted functions.  `write` and `insert` take the slots over: they are donated."""

    empty: Callable[[int, int, int], Slots]  # (slots B, cache length S, longest completion N)
    prefill: Callable[[Params, Any, Any], Prompts]  # (weights, tokens_PT, lengths_P)
    insert: Callable[[Slots, Prompts, Any, Any, Any], Slots]  # (slots, prompts, row_B or -1, keys_B, limit_B)
    write: Callable[[Params, Slots, int, int], Slots]  # (weights, slots, tokens at most, slots that may be done)
    stop: Callable[[Slots, Any], Slots]  # (slots, which_B): these are done
    prepare: Callable[[Params], Params]  # see types.Decoder


def make_slot_functions(model: Model, mesh: Mesh, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> SlotFunctions:
    """Everything that does not change during a rollout is baked in here."""
    decoder = model.decoder
    penalised = sampling.repetition_penalty != 1.0
    vocab = model.specs["embed"].shape[0]
    everywhere = NamedSharding(mesh, PartitionSpec())

    def empty(n_slots: int, cache_length: int, longest: int) -> Slots:
        zeros_BN = jnp.zeros((n_slots, longest), jnp.float32)
        return replicated(
            Slots(
                cache=decoder.empty_cache(n_slots, cache_length),
                logits_BV=jnp.zeros((n_slots, vocab), jnp.float32),
                keys_B=jax.vmap(jax.random.key)(jnp.zeros((n_slots,), jnp.uint32)),
                tokens_BN=zeros_BN.astype(jnp.int32),
                logp_BN=zeros_BN,
                plain_BN=zeros_BN,
                count_B=jnp.zeros((n_slots,), jnp.int32),
                limit_B=jnp.zeros((n_slots,), jnp.int32),
                done_B=jnp.ones((n_slots,), bool),
                seen_BV=jnp.zeros((n_slots, vocab), bool) if penalised else None,
            )
        )

    def replicated(slots: Slots) -> Slots:
        """What the host reads lies whole on every device, so that all hosts read the same and decide alike."""

        def whole(x: Array) -> Array:
            return jax.lax.with_sharding_constraint(x, everywhere)

        read = ("tokens_BN", "logp_BN", "plain_BN", "count_B", "done_B")
        return replace(slots, **{name: whole(getattr(slots, name)) for name in read})

    def prefill(weights: Params, tokens_PT: Array, lengths_P: Array) -> Prompts:
        logits_PV, cache = decoder.prefill(weights, tokens_PT, lengths_P)
        seen_PV = None
        if penalised:
            real_PT = jnp.arange(tokens_PT.shape[1]) < lengths_P[:, None]
            rows = jnp.arange(tokens_PT.shape[0])[:, None]
            seen_PV = jnp.zeros((tokens_PT.shape[0], vocab), bool).at[rows, tokens_PT].max(real_PT)
        return Prompts(cache=cache, logits_PV=logits_PV, seen_PV=seen_PV)

    def insert(slots: Slots, prompts: Prompts, row_B: Array, keys_B: Array, limit_B: Array) -> Slots:
        """Slot b starts from prompt row_B[b]; -1 leaves it as it is."""
        new_B = row_B >= 0

        def put(old: Array, from_prompt: Array) -> Array:
            """The prompt's part of the cache, or of any array by row."""
            taken = jnp.take(from_prompt, jnp.maximum(row_B, 0), axis=0)
            mask = new_B.reshape(-1, *[1] * (old.ndim - 1))
            if old.ndim == 4:  # a cache [B, S, K, C] from a prompt's [P, T, K, C]
                length = min(taken.shape[1], old.shape[1])
                return old.at[:, :length].set(jnp.where(mask, taken[:, :length], old[:, :length]))
            return jnp.where(mask, taken, old)

        return replicated(
            Slots(
                cache=jax.tree.map(put, slots.cache, prompts.cache),
                logits_BV=put(slots.logits_BV, prompts.logits_PV),
                keys_B=jnp.where(new_B, keys_B, slots.keys_B),
                tokens_BN=slots.tokens_BN,
                logp_BN=slots.logp_BN,
                plain_BN=slots.plain_BN,
                count_B=jnp.where(new_B, 0, slots.count_B),
                limit_B=jnp.where(new_B, limit_B, slots.limit_B),
                done_B=slots.done_B & ~new_B,
                seen_BV=None if slots.seen_BV is None else put(slots.seen_BV, prompts.seen_PV),  # type: ignore[arg-type]
            )
        )

    def write_one(weights: Params, slots: Slots) -> Slots:
        active_B = ~slots.done_B
        keys_B = jax.vmap(jax.random.fold_in)(slots.keys_B, slots.count_B)
        drawn = draw(sampling, keys_B, slots.logits_BV, slots.seen_BV)
        rows = jnp.arange(active_B.shape[0])
        at = (rows, jnp.where(active_B, slots.count_B, slots.tokens_BN.shape[1]))  # past the end: dropped
        stopped_B = jnp.isin(drawn.tokens_B, jnp.asarray(stop_ids, jnp.int32))
        count_B = slots.count_B + active_B
        logits_BV, cache = decoder.decode(weights, drawn.tokens_B, slots.cache, active_B)
        return Slots(
            cache=cache,
            logits_BV=logits_BV,
            keys_B=slots.keys_B,
            tokens_BN=slots.tokens_BN.at[at].set(drawn.tokens_B, mode="drop"),
            logp_BN=slots.logp_BN.at[at].set(drawn.logp_B, mode="drop"),
            plain_BN=slots.plain_BN.at[at].set(drawn.plain_B, mode="drop"),
            count_B=count_B,
            limit_B=slots.limit_B,
            done_B=slots.done_B | stopped_B | (count_B >= slots.limit_B),
            seen_BV=None if slots.seen_BV is None else slots.seen_BV.at[rows, drawn.tokens_B].max(active_B),
        )

    def write(weights: Params, slots: Slots, most: Array, may_be_done: Array) -> Slots:
        """At most so many tokens a slot; ends early when more slots are done than may be."""

        def going_on(carry: tuple[Array, Slots]) -> Array:
            written, slots = carry
            n_done = jnp.sum(slots.done_B)
            return (written < most) & (n_done <= may_be_done) & (n_done < slots.done_B.shape[0])

        def body(carry: tuple[Array, Slots]) -> tuple[Array, Slots]:
            return carry[0] + 1, write_one(weights, carry[1])

        return replicated(jax.lax.while_loop(going_on, body, (jnp.int32(0), slots))[1])

    return SlotFunctions(
        empty=jax.jit(empty, static_argnums=(0, 1, 2)),
        prefill=jax.jit(prefill),
        insert=jax.jit(insert, donate_argnums=0),
        write=jax.jit(write, donate_argnums=1),
        stop=jax.jit(lambda slots, which_B: replicated(slots.replace(done_B=slots.done_B | which_B)), donate_argnums=0),
        prepare=jax.jit(decoder.prepare),
    )
