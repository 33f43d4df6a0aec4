"""How the sampler's weights and cache lie on a mesh: laid out once a rollout, and left there by each token."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import NamedSharding

from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.decoder import cache_sharding
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import SAMPLER_RULES, partition_spec
from jaxrl_llm.plan.shapes import laid_out, one_layer
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.types import Model, Params

CONFIG = LlamaConfig(
    vocab_size=72, context=64, d_model=40, d_ff=56, n_layers=2, n_heads=8, n_kv_heads=4, head_dim=6
)  # four KV heads: fewer than devices
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
PROMPTS = [[1, 2, 3], [9], list(range(20, 41)), [5] * 16, [1, 2, 3], [60, 61]]


def build(mesh: Any) -> tuple[Model, Params]:
    model = build_model(CONFIG, ComputeConfig(), mesh)
    params = model.init(jax.random.key(0))
    return model, {**params, "unembed": 15 * params["unembed"]}


def sampler_of(model: Model, mesh: Any) -> Sampler:
    return Sampler(model, mesh, SamplingConfig(), stop_ids=[7], context=64, slots=4)


def test_a_rollout_lays_its_weights_out_once() -> None:
    """By one program, whatever refills; into SAMPLER_RULES; and writes what one device writes."""
    model, params = build(ONE)
    expected, _ = sampler_of(model, ONE)(params, PROMPTS, n=2, max_new_tokens=24, seed=1)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    model, params = build(mesh)
    sampler = sampler_of(model, mesh)
    made, prepare = [], sampler._functions.prepare

    def counted(params: Params) -> Params:
        made.append(prepare(params))
        return made[-1]

    sampler._functions = dataclasses.replace(sampler._functions, prepare=counted)
    found, stats = sampler(params, PROMPTS, n=2, max_new_tokens=24, seed=1)
    assert stats.completions == 12 > 2 * stats.slots  # slots were filled again
    assert len(made) == 1
    sampler(params, PROMPTS, n=2, max_new_tokens=24, seed=2)
    assert (len(made), prepare._cache_size()) == (2, 1)  # type: ignore[attr-defined]
    for weights in made[0]["layers"]:
        for name, spec in model.specs["layers"].items():
            assert_laid_out(weights[name], spec.axes[1:])
    for name in ("embed", "final_norm", "unembed"):
        assert_laid_out(made[0][name], model.specs[name].axes)
    for completions, wanted in zip(found, expected, strict=True):
        for a, b in zip(completions, wanted, strict=True):
            assert a.tokens == b.tokens
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


def assert_laid_out(w: Array, axes: tuple[str, ...]) -> None:
    spec = partition_spec(w.shape, axes, w.sharding.mesh, SAMPLER_RULES)  # type: ignore[attr-defined]
    assert w.sharding.is_equivalent_to(NamedSharding(w.sharding.mesh, spec), w.ndim)  # type: ignore[attr-defined]
    assert w.ndim == 1 or math.prod(w.sharding.shard_shape(w.shape)) * 8 == w.size  # all but scales of norms are split


def greedy(mesh: Any) -> np.ndarray:
    """[B, 8] ids after prompts of unequal length."""
    model, params = build(mesh)
    decoder = model.decoder

    @jax.jit
    def write(params: Params, tokens_BT: Array, lengths_B: Array) -> Array:
        weights = decoder.prepare(params)

        def one(carry: Any, _: None) -> tuple[Any, Array]:
            tokens_B = carry[0].argmax(-1)
            return decoder.decode(weights, tokens_B, carry[1], jnp.ones_like(lengths_B, bool)), tokens_B

        return jax.lax.scan(one, decoder.prefill(weights, tokens_BT, lengths_B), length=8)[1].T

    tokens_BT = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 32), dtype=np.int32)
    return np.asarray(write(params, tokens_BT, np.asarray([3, 24, 9, 17], np.int32)))


def test_tensor_parallel_ids_are_those_of_one_device() -> None:
    expected = greedy(ONE)
    assert len(np.unique(expected)) > 8
    for mesh in (MeshConfig(fsdp=2, tensor=4), MeshConfig(tensor=8)):
        np.testing.assert_array_equal(greedy(make_mesh(mesh)), expected)


@pytest.mark.parametrize(("fsdp", "tensor", "rows"), [(4, 2, 8), (8, 1, 6)])
def test_a_token_moves_neither_weights_nor_cache(fsdp: int, tensor: int, rows: int) -> None:
    """What devices tell each other is of one token: no collective makes as much as the least matrix of a layer.

    With 8 rows the cache is split by rows and KV heads, with 6 by places.
    """
    mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
    model = build_model(CONFIG, ComputeConfig(), mesh)
    dtype, layers = jnp.dtype("float32"), one_layer(model.specs["layers"])
    weights = laid_out({**model.specs, "layers": [layers] * CONFIG.n_layers}, mesh, dtype, SAMPLER_RULES)
    cache = jax.eval_shape(lambda: model.decoder.empty_cache(rows, 64))
    where = cache_sharding(cache.keys[0].shape, mesh)

    def there(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where if x.ndim == 4 else None)

    tokens, active = jax.ShapeDtypeStruct((rows,), "int32"), jax.ShapeDtypeStruct((rows,), "bool")
    lowered = jax.jit(model.decoder.decode).lower(weights, tokens, jax.tree.map(there, cache), active)
    text = lowered.compile().as_text()
    assert text is not None
    made = re.findall(r"= ([^=]*?) (?:all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(", text)
    sizes = [math.prod(map(int, shape.split(","))) for line in made for shape in re.findall(r"\w\[([\d,]+)\]", line)]
    least = min(x.size for w in weights["layers"] for x in w.values() if x.ndim > 1)
    assert sizes
    assert max(sizes) <= rows * CONFIG.vocab_size < least
