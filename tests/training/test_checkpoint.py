"""Checkpoints: what is kept, what comes back, onto which devices."""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.config import CheckpointConfig
from jaxrl_llm.types import TrainState


def state_on(n_devices: int, step: int) -> TrainState:
    """Weights 0, 1, 2, ... + step, split over the devices."""
    mesh = make_mesh(MeshConfig(fsdp=n_devices), jax.devices()[:n_devices])
    split, whole = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
    params = {"policy": {"w": jax.device_put(np.arange(16, dtype=np.float32) + step, split)}}
    tx = optax.scale_by_adam()
    return TrainState(jax.device_put(np.int32(step), whole), params, {}, jax.jit(tx.init)(params))


def saved(workdir: Path, steps: list[int], **config: int) -> Checkpoints:
    checkpoints = Checkpoints(workdir, CheckpointConfig(**config))
    for step in steps:
        checkpoints.save(
            state_on(8, step),
            ({"position": step, "arrays": {"rows": {"shape": [step], "dtype": "int64"}}}, {"rows": np.arange(step)}),
            {"tokenizer": {"kind": "bytes"}},
        )
    checkpoints.wait()
    return checkpoints


def test_the_last_and_every_mth_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1, 2, 3, 4, 5, 6, 7], keep_last=2, keep_every=3)
    assert checkpoints.steps() == [3, 6, 7]
    assert checkpoints.latest() == 7
    checkpoints.close()


def test_all_of_it_comes_back_on_other_devices(tmp_path: Path) -> None:
    saved(tmp_path, [5]).close()
    checkpoints = Checkpoints(tmp_path, None)
    assert checkpoints.run_json(5)["tokenizer"] == {"kind": "bytes"}
    template = state_on(2, 0)
    found = checkpoints.restore(5, template)
    assert found.source["position"] == 5
    np.testing.assert_array_equal(found.arrays["rows"], np.arange(5))
    np.testing.assert_array_equal(found.state.params["policy"]["w"], np.arange(16) + 5)
    assert found.state.params["policy"]["w"].sharding == template.params["policy"]["w"].sharding
    assert int(found.state.step) == 5
    weights = checkpoints.restore_item(5, "params", template.params)
    np.testing.assert_array_equal(weights["policy"]["w"], np.arange(16) + 5)


def test_weights_of_another_shape_are_named_by_the_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, [5]).close()
    template = jax.ShapeDtypeStruct((32,), np.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with pytest.raises(UserError, match="checkpoints/5"):
        Checkpoints(tmp_path, None).restore_item(5, "params", {"policy": {"other": template}})


def test_no_checkpoints_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoints"):
        Checkpoints(tmp_path / "nowhere", None)
