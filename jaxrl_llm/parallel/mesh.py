"""The device mesh.  Axes: `data` copies weights, `fsdp` splits weights and batch, `tensor` splits a layer's maths."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch is split over both


@schema
class MeshConfig:
    """Devices along each axis; -1, allowed once, takes what is left."""

    data: int = 1
    """Copies of the weights, each with its share of the batch."""
    fsdp: int = -1
    """Weights, optimizer state and batch are split this many ways."""
    tensor: int = 1
    """Heads, MLP columns and vocabulary are split this many ways."""


def mesh_shape(config: MeshConfig, n_devices: int) -> tuple[int, int, int]:
    """The sizes of AXES with -1 filled in, or a UserError that says how to mend it."""
    sizes = {axis: getattr(config, axis) for axis in AXES}
    named = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"the mesh ({named}) needs sizes of at least 1, and at most one -1 (what is left)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if n_devices % fixed or (not free and fixed != n_devices):
        raise UserError(
            f"the mesh ({named}) does not match the {n_devices} {jax.default_backend()} device(s) here: "
            f"the sizes must multiply to {n_devices}\n  mend: set one of them to -1, which takes what is left"
        )
    return tuple(sizes[axis] if axis not in free else n_devices // fixed for axis in AXES)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices (or the given ones), tensor innermost: its neighbours talk most."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def on_mesh(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, or at least its own part of, split as `sharding` says of its axes."""
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[: array.ndim]))
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
