"""The model as a writer: a prompt into the cache, then a token at a time.

Weights are cast and laid out once a rollout (`prepare`): layer by layer, adapters added in, in the compute dtype, by
SAMPLER_RULES, so that writing a token gathers no weights.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.models.attention import ATTENTION, choose_attention
from jaxrl_llm.models.cache import KVCache, attend_token, write_token
from jaxrl_llm.models.compute import ComputeConfig, compute_dtype
from jaxrl_llm.models.heads import project
from jaxrl_llm.models.layers import make_rope, rms_norm, rope_frequencies
from jaxrl_llm.models.llama import Attend, LlamaConfig, block, cast, llama_specs, stacks, unstack
from jaxrl_llm.models.lora import LoraConfig, merged
from jaxrl_llm.parallel.specs import SAMPLER_RULES, ParamSpec, is_spec, partition_spec
from jaxrl_llm.types import Decoder, Params


def cache_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Of keys or values [B, S, K, C]: KV heads over as many axes as divide them, innermost first, rows over the rest.

    Where rows do not divide, places take their part: each device attends to its own, and the sums are added up.
    """
    axes, data, rest = mesh.axis_names, mesh.axis_names[:1], mesh.axis_names[1:]
    splits: list[tuple[tuple[str, ...], ...]] = [(axes[:i], (), axes[i:]) for i in range(1, 1 + len(axes))]
    splits += [(data, rest, ()), ((), axes, ())]

    def divides(split: tuple[tuple[str, ...], ...]) -> bool:
        ways = (math.prod(mesh.shape[axis] for axis in names) for names in split)
        return all(n % parts == 0 for n, parts in zip(shape, ways, strict=False))

    return NamedSharding(mesh, PartitionSpec(*next(filter(divides, splits), ())))


def build_decoder(config: LlamaConfig, compute: ComputeConfig, mesh: Mesh, lora: LoraConfig | None = None) -> Decoder:
    """The functions of one language model that writes."""
    specs = llama_specs(config)
    dtype = compute_dtype(compute)
    attention = ATTENTION[choose_attention(compute.attention, dtype, config.channels, mesh)]
    frequencies = rope_frequencies(config.channels, config.rope_theta, config.rope_scaling)

    def placed(x: Array, axes: tuple[str | None, ...]) -> Array:
        """`x` split along these logical axes as SAMPLER_RULES say."""
        spec = partition_spec(x.shape, axes, mesh, SAMPLER_RULES)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def placed_cache(x_BSKC: Array) -> Array:
        return jax.lax.with_sharding_constraint(x_BSKC, cache_sharding(x_BSKC.shape, mesh))

    def at_cache(cache_BSKC: Array, x_B1HC: Array) -> Array:
        """A token's queries, keys or values, where the cache's rows and heads are: the cache is not moved."""
        rows, _, heads, _ = (*cache_sharding(cache_BSKC.shape, mesh).spec, None, None, None, None)[:4]
        return jax.lax.with_sharding_constraint(x_B1HC, NamedSharding(mesh, PartitionSpec(rows, None, heads)))

    def at_weights(x_B1HC: Array) -> Array:
        """The same where the weights make and use them: said beside `at_cache`, or the weights would be gathered."""
        return placed(x_B1HC, ("batch", None, "heads", None))

    def prepare(params: Params) -> Params:
        def one(spec: ParamSpec, w: Array) -> Array:
            return placed(cast(spec, w, dtype), spec.axes[-w.ndim :])

        scale = 0.0 if lora is None else lora.scale
        layers = [merged(w, scale) for _, stack in stacks(params) for w in unstack(stack)]
        layer_specs = [specs["layers"]] * config.n_layers
        weights = {**{name: params[name] for name in specs if name != "layers"}, "layers": layers}
        return jax.tree.map(one, {**specs, "layers": layer_specs}, weights, is_leaf=is_spec)

    def empty_cache(batch: int, length: int) -> KVCache:
        zeros = placed_cache(jnp.zeros((batch, length, config.n_kv_heads, config.channels), dtype))
        rows = (zeros,) * config.n_layers
        return KVCache(keys=rows, values=rows, lengths_B=jnp.zeros((batch,), jnp.int32))

    def through_layers(weights: Params, tokens_BT: Array, positions_BT: Array, attend_by_layer: Any) -> Array:
        """[B, T, D] after the final norm; attend_by_layer(i) is layer i's attention."""
        x_BTD = placed(jnp.take(weights["embed"], tokens_BT, axis=0), ("batch", None, None))
        rope = make_rope(positions_BT, frequencies)
        for i, w in enumerate(weights["layers"]):
            x_BTD = placed(block(config, w, x_BTD, rope, attend_by_layer(i)), ("batch", None, None))
        return rms_norm(x_BTD, weights["final_norm"], config.norm_eps)

    def logits_of(weights: Params, x_B1D: Array) -> Array:
        unembed_DV = weights["embed"].T if config.tie_embeddings else weights["unembed"]
        split_BV = placed(project(x_B1D, unembed_DV)[:, 0], ("batch", "vocab"))
        return placed(split_BV, ("batch", None))  # said in two steps, or the matrix would be gathered

    def prefill(weights: Params, tokens_BT: Array, lengths_B: Array) -> tuple[Array, KVCache]:
        keys, values = [], []

        def attend_by_layer(i: int) -> Attend:
            def attend(q_BTHC: Array, k_BTKC: Array, v_BTKC: Array) -> Array:
                keys.append(placed_cache(k_BTKC))
                values.append(placed_cache(v_BTKC))
                return attention(q_BTHC, k_BTKC, v_BTKC, None, None, config.sliding_window, mesh)

            return attend

        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        x_BTD = through_layers(weights, tokens_BT, positions_BT, attend_by_layer)
        last_B1D = jnp.take_along_axis(x_BTD, (lengths_B - 1)[:, None, None], axis=1)
        cache = KVCache(keys=tuple(keys), values=tuple(values), lengths_B=lengths_B)
        return logits_of(weights, last_B1D), cache

    def decode(weights: Params, tokens_B: Array, cache: KVCache, active_B: Array) -> tuple[Array, KVCache]:
        keys, values = [], []

        def attend_by_layer(i: int) -> Attend:
            def attend(q_B1HC: Array, k_B1KC: Array, v_B1KC: Array) -> Array:
                q_B1HC, k_B1KC, v_B1KC = (at_cache(cache.keys[i], at_weights(x)) for x in (q_B1HC, k_B1KC, v_B1KC))
                keys.append(placed_cache(write_token(cache.keys[i], k_B1KC, cache.lengths_B)))
                values.append(placed_cache(write_token(cache.values[i], v_B1KC, cache.lengths_B)))
                out_B1HC = attend_token(q_B1HC, keys[i], values[i], cache.lengths_B, config.sliding_window)
                return at_weights(at_cache(cache.keys[i], out_B1HC))

            return attend

        x_B1D = through_layers(weights, tokens_B[:, None], cache.lengths_B[:, None], attend_by_layer)
        lengths_B = cache.lengths_B + active_B
        return logits_of(weights, x_B1D), KVCache(keys=tuple(keys), values=tuple(values), lengths_B=lengths_B)

    return Decoder(prepare=prepare, empty_cache=empty_cache, prefill=prefill, decode=decode)
