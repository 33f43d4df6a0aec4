"""Answers as the rows of `Rollouts`: laid out, put on the mesh, cut into mini-batches, kept and read back by name."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.rollout.sampler import Completion
from jaxrl_llm.types import Rollouts, Tokens

Arrays = dict[str, Any]  # "score_B", "tokens.inputs_BT", "statistics.kl", ... -> array


def lay_out(
    prompts: Sequence[Sequence[int]], completions: Sequence[Completion], score_B: np.ndarray, n: int, length: int
) -> Arrays:
    """Rows [B, T = `length`] of B answers, `n` to each prompt side by side; see `types.Rollouts`.

    Args:
        prompts: ids of the prompt of each answer, BOS included; at most T + 1 tokens with the answer.
        completions: of each the answer.
        score_B: float32.
        n: answers to a prompt.
        length: T.
    """
    shape = len(completions), length
    inputs_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights_BT, logp_BT = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids, first = [*prompt, *completion.tokens], len(prompt) - 1  # where the answer's first token is predicted
        end = len(ids) - 1
        inputs_BT[row, :end], targets_BT[row, :end] = ids[:-1], ids[1:]
        weights_BT[row, first:end], logp_BT[row, first:end] = 1.0, completion.logp
    return {
        "tokens.inputs_BT": inputs_BT,
        "tokens.targets_BT": targets_BT,
        "tokens.weights_BT": weights_BT,
        "tokens.positions_BT": np.broadcast_to(np.arange(length, dtype=np.int32), shape),
        "score_B": np.asarray(score_B, np.float32),
        "group_B": np.arange(shape[0], dtype=np.int32) // n,
        "ended_B": np.asarray([completion.ended for completion in completions], np.float32),
        "sampler_logp_BT": logp_BT,
    }


def from_arrays(arrays: Mapping[str, Any]) -> Rollouts:
    """The rollout whose arrays these are; what has none is None."""
    fields: dict[str, Any] = {}
    for name, array in arrays.items():
        field, _, inner = name.partition(".")
        if inner:
            fields.setdefault(field, {})[inner] = array
        else:
            fields[field] = array
    return Rollouts(**{**fields, "tokens": Tokens(**{"segments_BT": None, **fields["tokens"]})})


def to_arrays(rollouts: Rollouts) -> Arrays:
    """The arrays of a rollout by name; `from_arrays` undoes it."""
    leaves = jax.tree_util.tree_flatten_with_path(rollouts)[0]
    return {".".join(str(getattr(key, "name", getattr(key, "key", key))) for key in path): x for path, x in leaves}


def make_cut(micro_batches: int, sharding: NamedSharding) -> Callable[[Rollouts, np.ndarray], Rollouts]:
    """cut(rollouts [M, b, ...], rows) -> those of its M·b rows, [micro_batches, b', ...]; on the devices, jitted."""

    def cut(rollouts: Rollouts, rows: Array) -> Rollouts:
        def of(x: Array) -> Array:
            return x.reshape(-1, *x.shape[2:])[rows].reshape(micro_batches, -1, *x.shape[2:])

        return jax.tree.map(of, rollouts)

    return jax.jit(cut, out_shardings=sharding)


def check_rows(rows: int, batch_size: int, micro_batches: int, sharding: NamedSharding) -> None:
    """A UserError unless each micro-batch gives each group of devices along the batch's axes as many answers."""
    ways = math.prod(sharding.mesh.shape[axis] for axis in BATCH_AXES)
    if rows % batch_size or batch_size % (micro_batches * ways):
        least = micro_batches * ways
        raise UserError(
            f"rollout.prompts x rollout.n are {rows} answers, which cannot be cut into updates of "
            f"training.batch_size={batch_size} in {micro_batches} micro-batch(es) for mesh.data x mesh.fsdp = {ways}\n"
            f"  mend: a training.batch_size that divides {rows} and is a multiple of {least}"
        )
