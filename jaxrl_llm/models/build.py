"""`build_model`: from a LlamaConfig to the pure functions of one role."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.attention import ATTENTION, choose_attention
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
from jaxrl_llm.parallel.mesh import BATCH_AXES
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
    attention = ATTENTION[choose_attention(compute.attention, dtype, config.channels, mesh)]
    batch_sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

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
        """Rows of the float32 table: a frequent token's gradient is a long sum, and bfloat16 would lose its end."""
        table_VD = gather(params["embed"], specs["embed"], jnp.dtype("float32"))
        return _by_batch(jnp.take(table_VD, tokens_BT, axis=0).astype(dtype), batch_sharding)

    def unembedding(params: Params) -> Array:
        if config.tie_embeddings:
            return gather(params["embed"], specs["embed"]).T
        return gather(params["unembed"], specs["unembed"])

    frequencies = rope_frequencies(config.channels, config.rope_theta, config.rope_scaling)

    def hidden(params: Params, tokens: Tokens) -> Array:
        """[B, T, D] after the final norm, in the compute dtype.  Of the tokens it reads all but targets and weights."""
        rope = make_rope(tokens.positions_BT, frequencies)
        window = config.sliding_window
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
            return _by_batch(block(config, w, x_BTD, rope, attend, product), batch_sharding), None

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

        by_row = x_BTD.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
        axes = BATCH_AXES if by_row else ()

        def scores(x_BTD: Array, unembed_DV: Array, targets_BT: Array, wanted_BT: Array) -> TokenScores:
            return score_tokens_chunked(
                x_BTD, unembed_DV, targets_BT, wanted_BT, temperature, compute.loss_chunks, axes
            )

        if by_row:
            # Each device sums its part of the head's gradient over the chunks; they are added up once, not by chunk.
            rows = PartitionSpec(BATCH_AXES)
            scores = jax.shard_map(
                scores,
                mesh=mesh,
                in_specs=(rows, PartitionSpec(), rows, rows),
                out_specs=rows,
                axis_names=set(BATCH_AXES),
            )
        return scores(x_BTD, unembedding(params), tokens.targets_BT, tokens.weights_BT != 0)

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


def _by_batch(x: Array, sharding: NamedSharding) -> Array:
    """Activations split by row over data and fsdp, where the rows divide (a single prompt to sample from does not)."""
    ways = sharding.mesh.shape["data"] * sharding.mesh.shape["fsdp"]
    return jax.lax.with_sharding_constraint(x, sharding) if x.shape[0] % ways == 0 else x
