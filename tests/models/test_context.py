"""Rows split along T, and tables that stay where they are: what they compute, and what never comes to be."""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import ComputeConfig, LlamaConfig, attention, build_model
from jaxrl_llm.models.attention import ATTENTION, gathered, query_block, splash
from jaxrl_llm.models.lora import LoraConfig, adapter_specs
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import map_specs, shardings
from jaxrl_llm.types import Head, Model, Params, Tokens

CONFIG = LlamaConfig(vocab_size=96, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
SHAPE = re.compile(r"\b[a-z]+\d+\[([\d,]+)\]")


def rows(n_rows: int, length: int, parents: bool = True) -> Tokens:
    """Rows of several documents, of which every other is the prompt of the next."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONFIG.vocab_size, (2, n_rows, length), dtype=np.int32)
    segments = np.sort(rng.integers(1, 5, (n_rows, length)), axis=1).astype(np.int32)
    positions = np.arange(length, dtype=np.int32) - (segments[:, :, None] > segments[:, None]).sum(-1, dtype=np.int32)
    weights = (rng.random((n_rows, length)) > 0.3).astype(np.float32)
    of = np.where(segments % 2 == 0, segments - 1, 0).astype(np.int32)
    found = Tokens(ids[0], ids[1], weights, segments, positions, of if parents else None)
    return jax.tree.map(jnp.asarray, found)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its rows."""

    n_rows: int = 4
    length: int = 32
    parents: bool = True
    window: int | None = None
    tied: bool = False
    lora: bool = False


def loss_and_grads(case: Case, mesh: Any) -> tuple[float, Params]:
    """Of a loss in which each place counts differently, by weights that take no compiling."""
    config = dataclasses.replace(CONFIG, sliding_window=case.window, tie_embeddings=case.tied)
    lora = LoraConfig(rank=4) if case.lora else None
    model = build_model(config, ComputeConfig(dtype="float32", loss_chunks=2, remat="full"), mesh, lora=lora)
    specs = model.specs
    if lora is not None:
        specs = specs | {"layers": specs["layers"] | adapter_specs(lora, specs["layers"])}
    rng = np.random.default_rng(0)
    params = map_specs(lambda s: np.float32(rng.standard_normal(s.shape) * 0.2 + ("norm" in s.axes)), specs)
    params = jax.device_put(params, shardings(specs, mesh))
    batch = rows(case.n_rows, case.length, case.parents)

    @jax.jit
    @jax.value_and_grad
    def loss(params: Params) -> jax.Array:
        return (model.token_scores(params, batch).logp_BT * jnp.cos(jnp.arange(case.length))).mean()

    value, grads = loss(params)
    return float(value), jax.device_get(grads)


one_device = cache(partial(loss_and_grads, mesh=ONE))


@pytest.mark.parametrize(
    ("case", "mesh"),
    [
        (Case(), MeshConfig(context=2, data=2, fsdp=2)),
        (Case(), MeshConfig(context=4, tensor=2)),
        (Case(), MeshConfig(context=8)),
        (Case(), MeshConfig(context=2, tensor=4)),  # which 2 KV heads are not divided by
        (Case(parents=False, window=7, tied=True), MeshConfig(context=2, fsdp=2, tensor=2)),
        (Case(n_rows=3, length=30), MeshConfig(context=2, fsdp=4)),  # rows do not divide
        (Case(n_rows=3, length=30), MeshConfig(context=4, fsdp=2)),  # nor does T
        (Case(lora=True), MeshConfig(context=4, fsdp=2)),
    ],
    ids=str,
)
def test_rows_split_along_t_equal_one_device(case: Case, mesh: MeshConfig) -> None:
    value, grads = loss_and_grads(case, make_mesh(mesh))
    want, want_grads = one_device(case)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(want_grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, want_grads)


def attention_rows(length: int, channels: int, n_rows: int = 2) -> tuple[Any, ...]:
    """q with 4 heads, k and v with 2, segments and parents."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(n_rows, length, n, channels)), jnp.float32) for n in (4, 2, 2))
    packed = rows(n_rows, length)
    return q, k, v, jnp.asarray(packed.segments_BT), jnp.asarray(packed.parents_BT)


def with_gradients(kernel: Callable[..., jax.Array], *args: Any) -> tuple[jax.Array, ...]:
    """The output, and the gradients of q, k and v by a sum in which each place counts differently."""

    def weighed(q: Any, k: Any, v: Any) -> tuple[jax.Array, jax.Array]:
        out = kernel(q, k, v, *args[3:])
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    grads, out = jax.jit(jax.grad(weighed, argnums=(0, 1, 2), has_aux=True))(*args[:3])
    return (out, *grads)


@pytest.mark.parametrize("mask", ["parents", "segments", "window", "causal"])
def test_gathered_keys_equal_all_keys(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several blocks of queries, of a size that divides them."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 5)  # of 12 queries: blocks of 4
    q, k, v, segments, parents = attention_rows(24, 8)
    args = (
        *(q, k, v, None if mask == "causal" else segments),
        *(parents if mask == "parents" else None, 5 if mask == "window" else None),
    )
    got = with_gradients(gathered, *args, make_mesh(MeshConfig(context=2, fsdp=1, tensor=4)))
    want = with_gradients(ATTENTION["xla"], *args, ONE)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_scores_of_all_queries_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forward nor backward: the largest array is of a block of queries."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 8)
    args = attention_rows(96, 4)
    one_block = args[0].shape[0] * 4 * 8 * 96

    def largest(kernel: Any, mesh: Any) -> int:
        loss = lambda q, k, v: (kernel(q, k, v, *args[3:], None, mesh) ** 2).sum()
        hlo = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*args[:3]).compile().as_text()
        return max(map(math.prod, arrays(hlo)))

    assert largest(ATTENTION["xla"], ONE) >= 12 * one_block
    assert largest(gathered, make_mesh(MeshConfig(context=8))) <= one_block


@pytest.mark.parametrize("window", [None, 100])
def test_splash_equals_xla_on_a_split_row(window: int | None) -> None:
    """The TPU kernel, interpreted; a row of 384 has no whole tile for each device, parents are none of the kernel's."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, context=2, tensor=4))
    for length, parents in ((256, False), (384, False), (256, True)):
        q, k, v, segments, of = attention_rows(length, 128, n_rows=1)
        args = (q, k, v, segments, of if parents else None, window)
        want = ATTENTION["xla"](*args, ONE)
        np.testing.assert_allclose(splash(*args, mesh, interpret=True), want, atol=2e-5)


def arrays(hlo: str) -> list[tuple[int, ...]]:
    """The shapes of all arrays in a text of HLO."""
    return [tuple(map(int, shape.split(","))) for shape in SHAPE.findall(hlo)]


def collectives(hlo: str) -> list[tuple[int, ...]]:
    """The shapes that collectives make."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return arrays("\n".join(re.findall(rf"= ([^=]*?) (?:{kinds})(?:-start)?\(", hlo)))


def gradient_hlo(head: Head, mesh: Any, of: Callable[[Model, Params], jax.Array], tied: bool = False) -> str:
    """Of a model whose vocabulary is no other dimension."""
    config = dataclasses.replace(CONFIG, vocab_size=1168, n_layers=1, tie_embeddings=tied)
    model = build_model(config, ComputeConfig(dtype="float32", loss_chunks=2), mesh, head)
    where = shardings(model.specs, mesh)
    shapes = map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), model.specs)
    params = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, where)
    grad = jax.jit(jax.grad(lambda p: of(model, p)), out_shardings=where)
    return str(grad.lower(params).compile().as_text())


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(fsdp=8), MeshConfig(fsdp=2, context=4), MeshConfig(data=1, fsdp=2, context=2, tensor=2)],
    ids=str,
)
def test_tokens_are_looked_up_where_the_table_is(mesh: MeshConfig) -> None:
    """No collective makes any part of the table or of its gradient: activations travel."""
    batch = rows(8, 32)
    hlo = gradient_hlo("scalar", make_mesh(mesh), lambda m, p: (m.values(p, batch)["score"] ** 2).sum())
    made = collectives(hlo)
    assert made
    assert not [shape for shape in made if max(shape) >= 1168 // mesh.tensor]
    assert not [shape for shape in arrays(hlo) if sorted(shape) == [32, 1168]]


@pytest.mark.parametrize("tied", [False, True])
def test_the_heads_gradient_is_added_up_once(tied: bool) -> None:
    """Outside of the loop over pieces of the logits."""
    mesh, batch = make_mesh(MeshConfig(data=2, fsdp=2, context=2)), rows(8, 32)
    hlo = gradient_hlo("lm", mesh, lambda m, p: m.token_scores(p, batch).logp_BT.sum(), tied)
    found = re.findall(r"= ([^=]*?) (all-gather|all-reduce|reduce-scatter)(?:-start)?\((?:.*)op_name=\"([^\"]*)\"", hlo)
    heads = [(kind, shape, name) for shape, kind, name in found if "1168" in shape]
    assert {kind for kind, _, _ in heads} >= {"all-gather", "reduce-scatter"}
    for kind, shape, name in heads:
        assert "while" not in name.split("shard_map")[-1], (kind, shape, name)


def test_queries_come_in_blocks_unless_these_were_tiny() -> None:
    assert [query_block(n) for n in (4096, 1000, 384, 16, 1021, 2 * 1021)] == [512, 500, 384, 16, 1021, 2 * 1021]


def test_long_rows_with_parents_never_have_all_scores_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What splash does not know goes in blocks of queries on one device too."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 8)
    args = attention_rows(24, 8)
    scores = str(jax.make_jaxpr(lambda *args: splash(*args, None, ONE))(*args)).replace(" ", "")
    assert "8,24]" in scores
    assert "24,24]" not in scores
    assert jnp.abs(splash(*args, None, ONE) - ATTENTION["xla"](*args, None, ONE)).max() < 1e-5
