"""`build_model`: from a LlamaConfig to the pure functions of one role."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.attention import ATTENTION, by_row, choose_attention, gathered, splits
from jaxrl_llm.models.compute import ComputeConfig, compute_dtype
from jaxrl_llm.models.decoder import build_decoder
from jaxrl_llm.models.heads import project, score_tokens_chunked
from jaxrl_llm.models.layers import make_rope, rms_norm, rope_frequencies
from jaxrl_llm.models.llama import (
    SCALARS,
    LlamaConfig,
    block,
    cast,
    depth,
    flops_per_token,
    linear,
    llama_specs,
    stacks,
    unstack,
)
from jaxrl_llm.models.lora import RANKS, LoraConfig, adapted_linear, adapter_specs
from jaxrl_llm.parallel.mesh import BATCH_AXES, WEIGHT_AXES, ways
from jaxrl_llm.parallel.offload import fetched, waits
from jaxrl_llm.parallel.specs import ParamSpec, init_params, is_spec, partition_spec
from jaxrl_llm.types import Head, Model, Params, Tokens, TokenScores

REMAT = {
    "none": lambda f: f,
    "dots": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint,
}


def build_model(
    config: LlamaConfig, compute: ComputeConfig, mesh: Mesh, head: Head = "lm", lora: LoraConfig | None = None
) -> Model:
    """The functions of one model.  All settings are baked in here; below are arrays only.

    They take params as `specs` and `init` have them, and also as `models.trainable` divides them: layers cut into
    several stacks, and with `lora` adapters beside the weights (or not: then they compute the base model).
    """
    specs = llama_specs(config, head)
    layer_specs = specs["layers"] | (adapter_specs(lora, specs["layers"]) if lora is not None else {})
    dtype = compute_dtype(compute)
    kernel = choose_attention(compute.attention, dtype, config.channels, mesh)

    def placed(x: Array) -> Array:
        """Activations [B, T, ...] split by row and along T, where these divide (a lone prompt may not)."""
        spec = PartitionSpec(by_row(x.shape[0], mesh), "context" if splits(x.shape[1], mesh) else None)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def gather(weights: Params, weight_specs: Params, dtype: jnp.dtype = dtype) -> Params:
        """Weights as the maths wants them: compute dtype, whole along fsdp, still split along tensor.

        Said here once, so that the compiler gathers one layer when it is needed and never a stack of them.  What waits
        on the host comes to the devices here.
        """

        def one(spec: ParamSpec, w: Array) -> Array:
            axes = tuple(None if axis in ("embed", *RANKS) else axis for axis in spec.axes)[-w.ndim :]
            target = NamedSharding(mesh, partition_spec(w.shape, axes, mesh))
            return jax.lax.with_sharding_constraint(cast(spec, fetched(spec, w, mesh), dtype), target)

        return jax.tree.map(one, weight_specs, weights, is_leaf=is_spec)

    def embed(params: Params, tokens_BT: Array) -> Array:
        """Rows of the float32 table: a frequent token's gradient is a long sum, and bfloat16 would lose its end.

        Each device looks its columns up for the tokens of all that share the weights, then columns change places for
        rows: activations travel, and the table, which is far larger, stays where it is, as does its gradient.
        """
        rows = "data" if tokens_BT.shape[0] % mesh.shape["data"] == 0 else None
        columns = partition_spec(specs["embed"].shape, specs["embed"].axes, mesh)[1]

        def at(x: Array, *axes: Any) -> Array:
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

        table_VD = fetched(specs["embed"], params["embed"], mesh)
        x_BTD = at(jnp.take(table_VD, at(tokens_BT, rows), axis=0).astype(dtype), rows, None, columns)
        if columns == ("fsdp", "context") and splits(tokens_BT.shape[1], mesh):
            x_BTD = at(x_BTD, rows, "context", "fsdp")  # one axis at a time, or the compiler gathers all of it
        return placed(x_BTD)

    def unembedding(params: Params, split: tuple[str, ...] = ()) -> Array:
        """[D, V] in the compute dtype, along D split over these axes alone."""
        name = "embed" if config.tie_embeddings else "unembed"
        w = fetched(specs[name], params[name], mesh)
        w_DV = w.T if config.tie_embeddings else w
        vocab = partition_spec(w_DV.shape, (None, "vocab"), mesh)[1]
        spec = PartitionSpec(split or None, vocab)
        return jax.lax.with_sharding_constraint(w_DV.astype(dtype), NamedSharding(mesh, spec))

    frequencies = rope_frequencies(config.channels, config.rope_theta, config.rope_scaling)

    def hidden(params: Params, tokens: Tokens) -> Array:
        """[B, T, D] after the final norm, in the compute dtype.  Of the tokens it reads all but targets and weights."""
        rope = make_rope(placed(tokens.positions_BT), frequencies)
        window = config.sliding_window
        attention = gathered if splits(tokens.inputs_BT.shape[1], mesh) and kernel != "splash" else ATTENTION[kernel]
        if window is not None and tokens.parents_BT is not None and window < tokens.inputs_BT.shape[1]:
            raise UserError(
                f"model.sliding_window={window} counts places in a row, in which answers that share a prompt are not "
                "where they would be alone\n  mend: data.share_prompt=false"
            )

        def attend(q_BTHC: Array, k_BTKC: Array, v_BTKC: Array) -> Array:
            return attention(q_BTHC, k_BTKC, v_BTKC, tokens.segments_BT, tokens.parents_BT, window, mesh)

        def layer(x_BTD: Array, numbered: tuple[Array | int, Params]) -> tuple[Array, None]:
            number, w = numbered
            product = linear if lora is None else adapted_linear(lora, tokens.seeds_B, number)
            w = gather(w, {name: layer_specs[name] for name in w})
            return placed(block(config, w, x_BTD, rope, attend, product)), None

        layer = REMAT[compute.remat](layer)
        x_BTD = embed(params, tokens.inputs_BT)
        for first, stack in stacks(params):
            numbers = range(first, first + depth(stack))
            if compute.layers == "scan" or waits(stack):  # of unrolled layers all would be fetched at once
                x_BTD, _ = jax.lax.scan(layer, x_BTD, (jnp.asarray(numbers), stack))
            else:
                for numbered in zip(numbers, unstack(stack), strict=True):
                    x_BTD, _ = layer(x_BTD, numbered)
        return rms_norm(x_BTD, fetched(specs["final_norm"], params["final_norm"], mesh), config.norm_eps)

    def logits(
        params: Params, tokens_BT: Array, segments_BT: Array | None = None, positions_BT: Array | None = None
    ) -> Array:
        return project(hidden(params, _read_only(tokens_BT, segments_BT, positions_BT)), unembedding(params))

    def token_scores(params: Params, tokens: Tokens, temperature: float = 1.0) -> TokenScores:
        x_BTD = hidden(params, tokens)

        axes = (*BATCH_AXES, *(("context",) if splits(x_BTD.shape[1], mesh) else ()))
        axes = axes if by_row(x_BTD.shape[0], mesh) else ()
        split = tuple(axis for axis in WEIGHT_AXES if axis in axes and config.d_model % ways(mesh, WEIGHT_AXES) == 0)

        copied = tuple(axis for axis in axes if axis not in split)

        def scores(x_BTD: Array, unembed_DV: Array, targets_BT: Array, wanted_BT: Array) -> TokenScores:
            if copied:  # said here, or the gradients of the copies would be added up by chunk
                unembed_DV = jax.lax.pcast(unembed_DV, copied, to="varying")
            if split:
                unembed_DV = jax.lax.all_gather(unembed_DV, split, axis=0, tiled=True)
            return score_tokens_chunked(
                x_BTD, unembed_DV, targets_BT, wanted_BT, temperature, compute.loss_chunks, axes
            )

        if axes:
            # Gathered within, so that each device sums its part of the head's gradient over the chunks, and the parts
            # are added up once, not by chunk, and scattered.
            rows = PartitionSpec(BATCH_AXES, *axes[2:])
            scores = jax.shard_map(
                scores,
                mesh=mesh,
                in_specs=(rows, PartitionSpec(split or None), rows, rows),
                out_specs=rows,
                axis_names=set(axes),
            )
        return scores(x_BTD, unembedding(params, split), tokens.targets_BT, tokens.weights_BT != 0)

    def values(params: Params, tokens: Tokens) -> dict[str, Array]:
        x_BTD = hidden(params, tokens)
        return {name: project(x_BTD, gather(params[name], specs[name]))[..., 0] for name in SCALARS if name in specs}

    def score(params: Params, tokens_BT: Array, lengths_B: Array) -> Array:
        values_BT = values(params, _read_only(tokens_BT))["score"]
        return jnp.take_along_axis(values_BT, lengths_B[:, None] - 1, axis=1)[:, 0]

    return Model(
        specs=specs,
        init=lambda key: init_params(specs, key, mesh),
        logits=logits,
        token_scores=token_scores,
        values=values,
        score=score,
        decoder=build_decoder(config, compute, mesh, lora),
        flops_per_token=lambda length, trained=None: flops_per_token(config, length, head, trained),
    )


def _read_only(tokens_BT: Array, segments_BT: Array | None = None, positions_BT: Array | None = None) -> Tokens:
    """Tokens of which nothing is to be predicted."""
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    nothing_BT = jnp.zeros_like(tokens_BT)
    return Tokens(tokens_BT, nothing_BT, nothing_BT, segments_BT, positions_BT)
