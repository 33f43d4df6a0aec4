"""What runs on TPUs alone, compiled for some that are not here: kernel, rows split along T, sampler, offload."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import load
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.decoder import cache_sharding
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.offload import as_on_host
from jaxrl_llm.parallel.specs import SAMPLER_RULES
from jaxrl_llm.plan.shapes import batch_of, fixed_weights, laid_out, one_layer, row_length

Tpu = Callable[..., list[Any]]
SHAPE = "d_model: 256, d_ff: 512, n_layers: 2, n_heads: 2, n_kv_heads: 1, vocab_size: 512, context: 512"  # 128 channels
SMALL = [
    *("init_from=null", f"model={{{SHAPE}}}", "compute.dtype=bfloat16", "compute.remat=full", "compute.layers=scan"),
    *("training.batch_size=8", "training.micro_batches=1", "data.length=512"),
]
MODEL = LlamaConfig(vocab_size=512, context=512, d_model=256, d_ff=512, n_layers=2, n_heads=2, n_kv_heads=1)
COLLECTIVE = r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


@pytest.fixture(autouse=True)
def _for_tpus() -> Iterator[None]:
    """Not the float32 products of the other tests, which kernels for bfloat16 do not know.  The cache keeps nothing:
    what is compiled for devices that are not here cannot be read back."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    with jax.default_matmul_precision("default"):
        yield
    jax.config.update(name, before)


def compiled_step(config: Any, parts: Assembly) -> Any:
    """The step, what waits on the host included."""
    fixed = fixed_weights(parts)
    fixed |= {role: as_on_host(fixed[role]) for role in parts.on_host}
    batch = batch_of(config, parts, 1, 8, row_length(config))
    return parts.step.lower(dataclasses.replace(parts.template, fixed=fixed), batch).compile()


def kernels(hlo: str) -> set[str]:
    """The directions of the splash kernel that are called, with segments."""
    return set(re.findall(r"%splash_mha_(\w+?)_segmented.* custom_call_target=\"tpu_custom_call\"", hlo))


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("v5e:2x4", {"fsdp": 4, "tensor": 2}),
        ("v5e:2x4", {"fsdp": 4, "context": 2}),
        ("v5p:2x2x1", {"context": 2, "tensor": 2}),
        ("v6e:2x4", {"fsdp": 4, "context": 2}),
    ],
    ids=str,
)
def test_a_step_with_the_kernel_compiles(tpu: Tpu, name: str, mesh: dict[str, int]) -> None:
    """Forward and backward, with documents packed into rows; `auto` chooses it."""
    config = load("pretrain/llama2-7b", [*SMALL, *(f"mesh.{axis}={size}" for axis, size in mesh.items())])
    hlo = compiled_step(config, assemble(config, tpu(name))).as_text()
    assert kernels(hlo) == {"fwd", "dq", "dkv"}


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("v5e:2x4", MeshConfig(fsdp=4, tensor=2)),
        ("v5p:2x2x1", MeshConfig(context=2, tensor=2)),
        ("v6e:2x4", MeshConfig(fsdp=4, context=2)),
    ],
    ids=str,
)
def test_the_sampler_compiles_and_a_token_moves_no_weights(tpu: Tpu, name: str, mesh: MeshConfig) -> None:
    """A prompt by the kernel; and to write a token less travels than the least matrix, the output's above all."""
    here = make_mesh(mesh, tpu(name))
    model = build_model(MODEL, ComputeConfig(dtype="bfloat16"), here)
    layers = [one_layer(model.specs["layers"])] * MODEL.n_layers
    weights = laid_out({**model.specs, "layers": layers}, here, jnp.dtype("bfloat16"), SAMPLER_RULES)
    whole = NamedSharding(here, PartitionSpec())

    def numbers(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    prefill = jax.jit(model.decoder.prefill).lower(weights, numbers(8, 256), numbers(8)).compile().as_text()
    assert kernels(prefill) == {"fwd"}
    cache = jax.eval_shape(lambda: model.decoder.empty_cache(8, 512))
    where = cache_sharding(cache.keys[0].shape, here)
    cache = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where if x.ndim == 4 else whole), cache
    )
    lowered = jax.jit(model.decoder.decode, donate_argnums=2).lower(
        weights, numbers(8), cache, numbers(8, dtype="bool")
    )
    made = [shape for line in re.findall(COLLECTIVE, lowered.compile().as_text()) for shape in arrays(line)]
    least = min(w.size for layer in weights["layers"] for w in layer.values() if w.ndim > 1)
    assert made
    assert max(map(math.prod, made)) < least


def arrays(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, shape.split(","))) for shape in re.findall(r"\w\d+\[([\d,]+)\]", text)]


def test_a_reference_on_the_host_is_fetched_and_not_run_there(tpu: Tpu) -> None:
    """Its weights are in the host's memory, and come from there by asynchronous copies."""
    said = {}
    more = ["algo.reference=step", "data.max_length=null", "compute.attention=xla"]
    for offload in ("none", "frozen"):
        config = load("dpo/tinyllama-1.1b", [*SMALL, *more, f"compute.offload={offload}"])
        said[offload] = compiled_step(config, assemble(config, tpu("v5e:2x4")))
    plain, waiting = (said[name].memory_analysis() for name in ("none", "frozen"))
    fixed = waiting.host_argument_size_in_bytes
    assert fixed > 0
    assert plain.host_argument_size_in_bytes == 0
    assert waiting.argument_size_in_bytes == pytest.approx(plain.argument_size_in_bytes - fixed, rel=0.01)
    text = said["frozen"].as_text()
    assert "HostExecute" not in text
    assert re.search(r"S\(5\).*(?:copy-start|slice-start)\(|(?:copy-start|slice-start)\(.*S\(5\)", text)
