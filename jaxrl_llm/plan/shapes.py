"""The arrays of a run as shapes with shardings: weights of all roles, batches, rollouts."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import DataConfig, PreferenceDataConfig, PromptDataConfig
from jaxrl_llm.models.compute import compute_dtype
from jaxrl_llm.models.llama import LlamaConfig, cast
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.parallel.mesh import MeshConfig
from jaxrl_llm.parallel.specs import RULES, ParamSpec, Rules, map_specs, partition_spec
from jaxrl_llm.rollout import source
from jaxrl_llm.rollout.rows import from_arrays, lay_out
from jaxrl_llm.types import Answers, Labelled, Pairs, Params, Rollouts, Tokens

Remat = Literal["none", "dots", "full"]
Array = Callable[[tuple[int, ...], str], Any]  # (shape after [M, b], dtype) -> ShapeDtypeStruct [M, b, ...]


def laid_out(specs: Params, mesh: Mesh, dtype: jnp.dtype, rules: Rules = RULES) -> Params:
    """Weights in this dtype (norms as `cast` leaves them), split by these rules."""

    def one(spec: ParamSpec) -> jax.ShapeDtypeStruct:
        found = jax.eval_shape(partial(cast, spec, dtype=dtype), jax.ShapeDtypeStruct(spec.shape, "float32"))
        sharding = NamedSharding(mesh, partition_spec(spec.shape, spec.axes, mesh, rules))
        return jax.ShapeDtypeStruct(spec.shape, found.dtype, sharding=sharding)

    return map_specs(one, specs)


def one_layer(stack: Params) -> Params:
    """The specs of one layer of a stack."""
    return map_specs(lambda s: dataclasses.replace(s, shape=s.shape[1:], axes=s.axes[1:]), stack)


def fixed_weights(parts: Assembly) -> Params:
    """All that a step reads and does not change, as `Assembly.new_state` makes it."""
    found = dict(parts.template.fixed)
    for role in parts.complete_roles:
        specs = parts.divisions[role].fixed_specs if role in parts.divisions else parts.models[role].specs
        found[role] = laid_out(specs, parts.mesh, parts.fixed_dtype)
    return found


def on_one_device(config: Config, tensor: int = 1, remat: Remat = "none") -> Config:
    """The config as one device of a mesh has it: its part of the heads, the MLP and the vocabulary, all else whole.

    It can be traced anywhere: attention is XLA's.  Layers are scanned, which keeps the same and is traced sooner; the
    window changes no shape.
    """

    def part(n: int) -> int:
        return n if n % tensor else n // tensor

    def shape(model: LlamaConfig) -> LlamaConfig:
        heads, kv_heads = part(model.n_heads), part(model.n_kv_heads)
        return dataclasses.replace(
            model,
            head_dim=model.channels,
            n_heads=heads,
            n_kv_heads=kv_heads if heads % kv_heads == 0 else heads,
            d_ff=part(model.d_ff),
            vocab_size=part(model.vocab_size),
            sliding_window=None,
        )

    dtype: Any = compute_dtype(config.compute).name
    compute = dataclasses.replace(
        config.compute, dtype=dtype, attention="xla", layers="scan", remat=remat, offload="none"
    )
    critic = config.critic.model
    return dataclasses.replace(
        config,
        model=shape(config.model),
        critic=dataclasses.replace(config.critic, model=critic and shape(critic)),
        compute=compute,
        mesh=MeshConfig(),
    )


def row_length(config: Config) -> int:
    """T of a batch: of rollouts as their source rounds it, for the longest prompt that it may have."""
    if not isinstance(config.data, PromptDataConfig):
        return config.length
    return source.row_length(config.length, config.model.context, max(config.mesh.context, 1))


def round_shape(config: Config) -> tuple[int, int]:
    """Of a round of rollouts: in how many pieces it is read, and answers of each."""
    answers, training = config.rollout.prompts * config.rollout.n, config.training
    pieces = answers // training.batch_size * training.micro_batches
    return pieces, answers // pieces


def batch_of(config: Config, parts: Assembly, pieces: int, rows: int, length: int) -> Any:
    """What a step reads, or of rollouts the whole prepared round: ShapeDtypeStructs [pieces, rows, ...], sharded.

    How many rows preferences fill follows from the data; here each prompt with its answers has a row of its own, which
    is the most they fill unless a prompt with both answers is longer than a row.
    """
    noun, array = parts.algo.consumes, _array_of(parts, pieces, rows)
    if noun is Rollouts:
        return _prepared(config, array, length)
    if noun is Tokens:
        one_text = isinstance(config.data, DataConfig) and not config.data.isolate_documents
        return _tokens(config, array, length, segments=not one_text)
    data, head = config.data, next(iter(parts.algo.trained.values()))
    assert isinstance(data, PreferenceDataConfig)
    slots = 2 if noun is Pairs else 1

    def answers(dropout: bool = True) -> Answers:
        tokens = _tokens(config, array, length, parents=data.share_prompt and noun is Pairs, dropout=dropout)
        index = array((slots,), "int32")
        safe, ref = head != "lm", config.algo.cached
        return Answers(tokens, index, index, index if safe else None, array((slots,), "float32") if ref else None)

    if noun is Pairs:
        index, number = (_array_of(parts, pieces, rows, by_row=False)((), dtype) for dtype in ("int32", "float32"))
        return Pairs(answers(), index, index, number, number, index)
    others = answers(dropout=False) if parts.algo.mismatched else None
    return Labelled(answers(), array((slots,), "int32"), others)


def _array_of(parts: Assembly, pieces: int, rows: int, by_row: bool = True) -> Array:
    sharding = parts.batch_sharding

    def array(shape: tuple[int, ...], dtype: str) -> Any:
        whole = (pieces, rows, *shape)
        where = PartitionSpec(*sharding.spec[: len(whole)]) if by_row else PartitionSpec()
        return jax.ShapeDtypeStruct(whole, dtype, sharding=NamedSharding(sharding.mesh, where))

    return array


def micro_batch(batch: Any) -> Any:
    """[M, b, ...] -> [b, ...], without shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)


def _tokens(
    config: Config, array: Array, length: int, *, segments: bool = True, parents: bool = False, dropout: bool = True
) -> Tokens:
    ids = array((length,), "int32")
    has_seeds = dropout and isinstance(config.trainable, LoraConfig) and config.trainable.dropout > 0
    return Tokens(
        inputs_BT=ids,
        targets_BT=ids,
        weights_BT=array((length,), "float32"),
        segments_BT=ids if segments else None,
        positions_BT=ids,
        parents_BT=ids if parents else None,
        seeds_B=array((), "uint32") if has_seeds else None,
    )


def answers_of_a_round(config: Config, parts: Assembly) -> Rollouts:
    """[pieces, rows, ...] as the source of rollouts lays them out, before `prepare`."""
    return _laid_out_answers(_array_of(parts, *round_shape(config)), row_length(config))


def _laid_out_answers(array: Array, length: int) -> Rollouts:
    arrays = {
        name: array(x.shape[1:], str(x.dtype))
        for name, x in lay_out([], [], np.zeros(0, np.float32), 1, length).items()
    }
    arrays["kl_coef_B"] = arrays["penalty_coef_B"] = arrays["score_B"]
    return from_arrays(arrays)


def _prepared(config: Config, array: Array, length: int) -> Rollouts:
    """What the source of rollouts lays out, then what `prepare` adds."""
    rows = _laid_out_answers(array, length)
    parts = assemble(on_one_device(config), jax.devices()[:1])  # what is added is the same on any
    assert parts.algo.prepare is not None, "of rollouts there is one"
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rows)
    made = jax.eval_shape(parts.algo.prepare, parts.roles(parts.template.params, fixed_weights(parts)), bare)
    made = jax.tree.map(lambda x: array(x.shape[2:], str(x.dtype)), made)
    data = config.data
    if isinstance(data, PromptDataConfig) and data.pretrain is not None:
        made = dataclasses.replace(made, pretrain=_tokens(config, array, data.pretrain_length, dropout=False))
    return made
