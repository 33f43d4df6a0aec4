"""The sampler: a jitted prefill and a jitted decode loop over a KV cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.rollout.sampling import draw
from jaxrl_llm.types import Model, Params


class Completion(NamedTuple):
    """What was written after one prompt."""

    tokens: list[int]  # without the end token
    ended: bool  # an end token was written before the limit


Sampler = Callable[[Params, Sequence[Sequence[int]], Array], list[Completion]]


def make_sampler(
    model: Model,
    mesh: Mesh,
    *,
    eos_id: int,
    context: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Sampler:
    """`sampler(params, prompts, key)`: a completion of each prompt (lists of ids, BOS included).

    Randomness is fold_in(key, row, position), so a row's text does not depend on how long the others run.
    Prompts are padded to a power of two, so that many lengths share few compilations.
    """

    def generate(params: Params, prompts_BT: Array, lengths_B: Array, key: Array) -> tuple[Array, Array]:
        n_rows, bucket = prompts_BT.shape
        row_keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(n_rows))

        def choose(logits_BV: Array, positions_B: Array) -> Array:
            keys_B = jax.vmap(jax.random.fold_in)(row_keys, positions_B)
            return draw(keys_B, logits_BV, temperature, top_k, top_p)

        def going_on(carry: tuple) -> Array:
            n_written, ended_B = carry[0], carry[1]
            return (n_written < max_new_tokens) & ~jnp.all(ended_B)

        def write(carry: tuple) -> tuple:
            n_written, ended_B, logits_BV, written_BN, cache = carry
            tokens_B = jnp.where(ended_B, eos_id, choose(logits_BV, cache.lengths_B))
            written_BN = written_BN.at[:, n_written].set(tokens_B)
            logits_BV, cache = model.decode(params, tokens_B, cache)
            return n_written + 1, ended_B | (tokens_B == eos_id), logits_BV, written_BN, cache

        cache = model.empty_cache(n_rows, bucket + max_new_tokens)
        logits_BV, cache = model.prefill(params, prompts_BT, lengths_B, cache)
        written_BN = jnp.full((n_rows, max_new_tokens), eos_id, jnp.int32)
        start = (jnp.zeros((), jnp.int32), jnp.zeros((n_rows,), bool), logits_BV, written_BN, cache)
        n_written, _ended_B, _, written_BN, _ = jax.lax.while_loop(going_on, write, start)
        return written_BN, n_written

    jitted = jax.jit(generate, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def sampler(params: Params, prompts: Sequence[Sequence[int]], key: Array) -> list[Completion]:
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {i + 1} is empty: it needs at least one token")
            if len(prompt) + max_new_tokens > context:
                raise UserError(
                    f"prompt {i + 1} has {len(prompt)} tokens; with {max_new_tokens} new ones it exceeds the model's "
                    f"context of {context}\n  mend: a shorter prompt, or --max-new-tokens"
                )
        longest = max(len(prompt) for prompt in prompts)
        prompts_BT = np.full((len(prompts), 1 << (longest - 1).bit_length()), eos_id, np.int32)
        for row, prompt in zip(prompts_BT, prompts, strict=True):
            row[: len(prompt)] = prompt
        lengths_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
        written_BN, n_written = jax.device_get(jitted(params, prompts_BT, lengths_B, key))
        return [_cut(row[:n_written], eos_id) for row in written_BN]

    return sampler


def _cut(row: np.ndarray, eos_id: int) -> Completion:
    ends = np.flatnonzero(row == eos_id)
    return Completion(tokens=row[: ends[0]].tolist() if len(ends) else row.tolist(), ended=bool(len(ends)))
