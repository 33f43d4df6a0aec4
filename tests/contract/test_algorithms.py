"""What every algorithm of the table must keep, whatever its loss: a new one is covered on its first day."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.algos.pretrain import PretrainConfig
from jaxrl_llm.assemble import state_template
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.training.optim import AdamwConfig, MuonConfig, make_optimizer
from jaxrl_llm.training.step import Step, make_step
from jaxrl_llm.types import Algo, Tokens, TrainState

MODEL = LlamaConfig(vocab_size=128, d_model=64, d_ff=96, n_layers=4, n_heads=8, n_kv_heads=4)
ROWS, T = 8, 16


def ragged_tokens(seed: int) -> Tokens:
    """Rows of two documents of unequal length; every row has another number of trained tokens, one has none."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, MODEL.vocab_size, (2, ROWS, T), dtype=np.int32)
    cut = rng.integers(3, T - 3, ROWS)
    second = np.arange(T) >= cut[:, None]
    positions = np.where(second, np.arange(T) - cut[:, None], np.arange(T)).astype(np.int32)
    weights = (rng.random((ROWS, T)) < np.linspace(0, 1, ROWS)[:, None]).astype(np.float32)
    return Tokens(ids[0], ids[1], weights, 1 + second.astype(np.int32), positions)


BATCHES: Mapping[type, Callable[[int], Any]] = {Tokens: ragged_tokens}
CONFIGS: Mapping[str, Any] = {"pretrain": PretrainConfig(z_loss=1e-2)}

single_device = make_mesh(MeshConfig(), jax.devices()[:1])


def build(
    name: str,
    mesh: Mesh,
    tx: Any = None,
    compute: ComputeConfig = ComputeConfig(loss_chunks=2),  # noqa: B008
) -> tuple[Algo, Step, TrainState]:
    """The algorithm, its step and its first state on a mesh.  Without `tx` an update is minus the gradient."""
    models = {role: build_model(MODEL, compute, mesh) for role in ("policy",)}
    algo = ALGOS[name](CONFIGS[name], models)
    specs = {role: models[role].specs for role in algo.trained}
    tx = tx(specs, mesh) if tx else optax.with_extra_args_support(optax.scale(-1.0))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state_template(specs, tx, mesh))
    params = {role: models[role].init(jax.random.key(0)) for role in algo.trained}
    opt_state = jax.jit(tx.init, out_shardings=shardings.opt_state)(params)
    state = TrainState(step=jax.device_put(np.int32(0), shardings.step), params=params, fixed={}, opt_state=opt_state)
    return algo, make_step(algo, tx, lambda t: jnp.float32(1e-3), shardings), state


def on_mesh(batch: Any, micro_batches: int, mesh: Mesh) -> Any:
    cut = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
    return jax.device_put(cut, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))


def loss_and_grads(name: str, mesh: Mesh, micro_batches: int = 1) -> tuple[dict, Any]:
    algo, step, state = build(name, mesh)
    before = jax.device_get(state.params)
    state, metrics = step(state, on_mesh(BATCHES[algo.consumes](3), micro_batches, mesh))
    return jax.device_get(metrics), jax.tree.map(np.subtract, before, jax.device_get(state.params))


@pytest.fixture(scope="module", params=ALGOS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def reference(name: str) -> tuple[dict, Any]:
    return loss_and_grads(name, single_device)


def test_every_term_has_a_weight_and_a_count_of_the_batch_alone(name: str) -> None:
    algo, _, state = build(name, single_device)
    batch = BATCHES[algo.consumes](1)
    terms, _ = jax.jit(algo.loss)(state.params, batch)
    assert terms.keys() == algo.weights.keys()

    def counts(params: Any) -> list:
        terms, metrics = algo.loss(params, batch)
        return [mean.count for mean in (*terms.values(), *metrics.values())]

    jacobian = jax.jit(jax.jacrev(counts))(state.params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(jacobian))
    other = jax.tree.map(lambda x: 2 * x + 0.1, state.params)
    assert [float(c) for c in counts(other)] == [float(c) for c in counts(state.params)]


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_accumulation_equals_one_batch(name: str, reference: tuple[dict, Any], micro_batches: int) -> None:
    metrics, grads = loss_and_grads(name, single_device, micro_batches)
    for key in reference[0]:
        np.testing.assert_allclose(metrics[key], reference[0][key], rtol=2e-6, err_msg=key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, reference[1])


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_a_mesh_equals_one_device(name: str, reference: tuple[dict, Any], shape: tuple[int, int, int]) -> None:
    data, fsdp, tensor = shape
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    metrics, grads = loss_and_grads(name, mesh)
    np.testing.assert_allclose(metrics["loss"], reference[0]["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, reference[1])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 1e-2


OPTIMIZERS = {
    "adamw": lambda specs, mesh: make_optimizer(AdamwConfig(), lambda t: jnp.float32(1e-3), specs, mesh),
    "muon": lambda specs, mesh: make_optimizer(MuonConfig(), lambda t: jnp.float32(1e-3), specs, mesh),
}


@pytest.mark.parametrize(("optimizer", "layers"), [("adamw", "scan"), ("adamw", "unroll"), ("muon", "scan")])
def test_fsdp_splits_memory_and_gathers_no_stack(name: str, optimizer: str, layers: Any) -> None:
    """On fsdp=8 a device holds an eighth of weights and optimizer, and no collective makes a whole stack of layers."""
    mesh = make_mesh(MeshConfig(fsdp=8))
    algo, step, state = build(name, mesh, OPTIMIZERS[optimizer], ComputeConfig(loss_chunks=2, layers=layers))
    batch = on_mesh(BATCHES[algo.consumes](1), 1, mesh)
    text = step.jitted.lower(state.step, state.params, state.opt_state, state.fixed, batch).compile().as_text()  # type: ignore[attr-defined]
    matrices = [leaf for leaf in jax.tree.leaves(state.params["policy"]["layers"]) if leaf.ndim > 2]
    gathered = gathers(text)
    assert gathered, "an fsdp step must gather something"
    for leaf in matrices:  # neither the stack, in whatever order of axes, nor anything as large
        assert sorted(leaf.shape) not in [sorted(shape) for shape in gathered]
        assert leaf.size not in [math.prod(shape) for shape in gathered if shape[:1] == leaf.shape[:1]]
    assert max(map(math.prod, gathered)) < max(leaf.size for leaf in matrices)
    for _ in range(2):  # as they were put there, and as the step itself puts them
        assert per_device(state) <= 1.1 * total(state) / 8
        state, _ = step(state, batch)


def gathers(hlo: str) -> list[tuple[int, ...]]:
    """All shapes that all-gathers make, from lines such as `%ag = f32[1,64,96]{2,1,0} all-gather(...)`, tuples too."""
    made = re.findall(r"= ([^=]*?) all-gather(?:-start)?\(", hlo)
    return [tuple(map(int, shape.split(","))) for line in made for shape in re.findall(r"\w+\[([\d,]+)\]", line)]


def per_device(state: TrainState) -> int:
    leaves = jax.tree.leaves((state.params, state.opt_state))
    return max(
        sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == device)
        for device in jax.devices()
    )


def total(state: TrainState) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))


def test_one_compilation_serves_every_step(name: str) -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    algo, step, state = build(name, mesh, OPTIMIZERS["adamw"])
    for seed in range(3):
        state, _ = step(state, on_mesh(BATCHES[algo.consumes](seed), 1, mesh))
    assert step.jitted._cache_size() == 1  # type: ignore[attr-defined]
    assert int(state.step) == 3
