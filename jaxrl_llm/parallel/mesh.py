"""The device mesh, and which axis splits what.

`data` copies weights, `fsdp` splits weights and batch, `context` splits weights and each row along T, `tensor` splits a
layer's maths.  TPU chips are laid out so that neighbours on an axis are neighbours on the wires; slices of a pod, which
only the data-centre network connects, lie along `data` or `fsdp`.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch is split over both
WEIGHT_AXES = ("fsdp", "context")  # weights are split over both, and put together for use


@schema
class MeshConfig:
    """Devices along each axis; -1, allowed once, takes what is left."""

    data: int = 1
    """Copies of the weights, each with its share of the batch."""
    fsdp: int = -1
    """Weights, optimizer state and batch are split this many ways."""
    context: int = 1
    """Rows are split this many ways along T, for inputs too long for one device; weights and optimizer state too."""
    tensor: int = 1
    """Heads, MLP columns and vocabulary are split this many ways."""
    slices: Literal["data", "fsdp"] = "data"
    """The axis along which several TPU slices lie, which only the data-centre network connects."""


def mesh_shape(config: MeshConfig, n_devices: int) -> tuple[int, ...]:
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
    grid = place(mesh_shape(config, len(devices)), config.slices, devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def place(shape: tuple[int, ...], across: str, devices: Sequence[Any]) -> np.ndarray:
    """Devices [sizes of AXES]: TPU chips by their coordinates, a slice's together; others in their own order.

    Raises:
        UserError: the axis `across` cannot be cut into as many parts as there are slices.
    """
    if not hasattr(devices[0], "coords"):
        return np.asarray(devices).reshape(shape)
    n_slices = len({getattr(device, "slice_index", None) for device in devices})
    if n_slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    at = AXES.index(across)
    if shape[at] % n_slices:
        other = next((axis for axis in ("data", "fsdp") if shape[AXES.index(axis)] % n_slices == 0), None)
        raise UserError(
            f"mesh.{across}={shape[at]} cannot lie across the {n_slices} slices that there are (mesh.slices={across})\n"
            f"  mend: mesh.{across}={n_slices}, or a multiple of it" + (f"; or mesh.slices={other}" if other else "")
        )
    between = tuple(n_slices if i == at else 1 for i in range(len(shape)))
    within = tuple(size // n for size, n in zip(shape, between, strict=True))
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def ways(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
    """In how many parts these axes cut an array."""
    return math.prod(mesh.shape[axis] for axis in ([axes] if isinstance(axes, str) else axes))


def on_mesh(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, or at least its own part of, split as `sharding` says of its axes."""
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[: array.ndim]))
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
