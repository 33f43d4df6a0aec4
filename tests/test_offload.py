"""Reference and reward models that wait on the host give the numbers that they give on the devices."""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm import scorers
from jaxrl_llm.assemble import assemble
from jaxrl_llm.begin import begin
from jaxrl_llm.config import load
from jaxrl_llm.datasets import open_datasets
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.offload import HOST
from jaxrl_llm.parallel.specs import is_spec, shardings
from jaxrl_llm.stage import starting_state
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.tiny import Runs

OFFLOAD = "compute.offload=frozen"
CONFIG = LlamaConfig(vocab_size=64, context=64, d_model=32, d_ff=48, n_layers=3, n_heads=4, n_kv_heads=2)


def kinds(tree: Any) -> set[str]:
    """The memories that the arrays lie in."""
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


def split(tree: Any) -> list[Any]:
    return [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(("name", "devices"), [("dpo", 8), ("ppo", 1)])
def test_the_losses_are_the_same(runs: Runs, name: str, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference in the step, or asked once a round beside a reward model."""
    raters: list[set[str]] = []
    real = scorers.scorer_of

    def spied(model: Any, weights: Any, *args: Any, **options: Any) -> Any:
        raters.append(kinds(weights))
        return real(model, weights, *args, **options)

    monkeypatch.setattr(scorers, "scorer_of", spied)
    plain, waiting = (runs.opened(name, *more, devices=devices) for more in ((), (OFFLOAD,)))
    assert kinds(plain.state.fixed) == {"device"}
    assert kinds(waiting.state.fixed["ref"]) == {HOST}
    assert split(waiting.state.fixed["ref"]) == split(plain.state.fixed["ref"])
    assert kinds((waiting.state.params, waiting.state.opt_state)) == {"device"}
    assert raters == ([{"device"}, {HOST}] if name == "ppo" else [])
    expected = plain.steps(2)
    found = waiting.steps(2)
    assert [step.keys() for step in found] == [step.keys() for step in expected]
    for step, want in zip(found, expected, strict=True):
        np.testing.assert_allclose([*step.values()], [*want.values()], rtol=1e-6, atol=1e-7)
    assert expected[0]["loss"] != expected[1]["loss"]


def test_a_run_that_goes_on_has_it_too(runs: Runs, tmp_path: Path) -> None:
    """Where weights wait is no part of a checkpoint: a run may be stopped with them here and go on with them there."""
    runs("dpo")
    shutil.copytree(runs.folder / "dpo", tmp_path / "dpo")
    found = {}
    for more in ((), (OFFLOAD,)):
        config = load(runs.config("dpo", tmp_path / "dpo.yaml"), more)
        start, parts = begin(config), assemble(config, jax.devices()[:1])
        checkpoints, data = Checkpoints(tmp_path / "dpo", config.checkpoint), open_datasets(config, parts, start)
        state, step = starting_state(parts, checkpoints, data, start)
        data.source.close()
        checkpoints.close()
        assert step == 4
        assert kinds(state.params) == {"device"}
        found[more] = state.fixed["ref"]
    assert (kinds(found[()]), kinds(found[OFFLOAD,])) == ({"device"}, {HOST})
    jax.tree.map(np.testing.assert_array_equal, *found.values())


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_what_moves_is_one_layer_in_its_split(layers: Any) -> None:
    """In the program as a TPU's compiler is given it: each move is within the loop over layers, or of what has none."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    model = build_model(CONFIG, ComputeConfig(layers=layers, remat="full", attention="xla"), mesh)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    where = jax.tree.map(lambda s: s.with_memory_kind(HOST), shardings(model.specs, mesh))
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
    ids = jax.ShapeDtypeStruct((8, 16), "int32")
    text = jax.jit(model.logits).trace(params, ids).lower(lowering_platforms=("tpu",)).as_text()
    moved = re.findall(
        r"(%\d+) = stablehlo.custom_call @annotate_device_placement.*-> tensor<(\w+)x(?:f32|bf16)>", text
    )
    shapes_moved = sorted(tuple(map(int, shape.split("x"))) for _, shape in moved)
    specs = jax.tree.leaves(model.specs, is_leaf=is_spec)
    assert shapes_moved == sorted(s.shape[1:] if s.axes[0] == "layers" else s.shape for s in specs)
    for name, shape in moved:  # at once split as it was: else the compiler gathers on the host
        assert re.search(rf"custom_call @Sharding\({name}\)|sharding_constraint {name} ", text), shape
