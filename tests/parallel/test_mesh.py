"""The mesh: its sizes, what is refused, and which device comes where."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import AXES, MeshConfig, make_mesh, mesh_shape, place, ways


def chips(width: int, height: int, n_slices: int = 1) -> list[Any]:
    """TPU chips in the order of their numbers: slice by slice, and within one by host (2 x 2 chips)."""
    hosts = list(itertools.product(range(0, height, 2), range(0, width, 2)))
    places = [(s, x + dx, y + dy) for s in range(n_slices) for y, x in hosts for dy in (0, 1) for dx in (0, 1)]
    return [
        SimpleNamespace(
            id=i,
            platform="tpu",
            device_kind="TPU v5 lite",
            coords=(x, y, 0),
            core_on_chip=0,
            slice_index=s,
            process_index=i // 4,
        )
        for i, (s, x, y) in enumerate(places)
    ]


def at(grid: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(device.coords[:2]) for device in grid.flat]


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(data=-1, fsdp=2), (4, 2, 1, 1)),
        (MeshConfig(context=-1, fsdp=2), (1, 2, 4, 1)),
        (MeshConfig(context=2, tensor=2), (1, 2, 2, 2)),
        (MeshConfig(fsdp=1, tensor=-1), (1, 1, 1, 8)),
        (MeshConfig(data=2, fsdp=2, context=2, tensor=1), (2, 2, 2, 1)),
    ],
    ids=str,
)
def test_what_is_left_is_filled_in(config: MeshConfig, shape: tuple[int, ...]) -> None:
    assert mesh_shape(config, 8) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(context=-1), "at most one -1"),
        (MeshConfig(tensor=0), "sizes of at least 1"),
        (MeshConfig(fsdp=-2), "sizes of at least 1"),
        (
            MeshConfig(context=3),
            r"\(mesh.data=1, mesh.fsdp=-1, mesh.context=3, mesh.tensor=1\) does not match the 8 cpu device\(s\) here: "
            r"the sizes must multiply to 8\n  mend: set one of them to -1",
        ),
        (MeshConfig(fsdp=2, context=2), "must multiply to 8"),
        (MeshConfig(fsdp=16), "must multiply to 8"),
    ],
    ids=str,
)
def test_a_mesh_that_does_not_match_is_refused(config: MeshConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mesh_shape(config, 8)


def test_other_devices_keep_their_order_tensor_innermost() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
    assert mesh.axis_names == AXES == ("data", "fsdp", "context", "tensor")
    assert list(mesh.devices.flat) == jax.devices()
    assert (ways(mesh, "context"), ways(mesh, ("fsdp", "context", "tensor"))) == (2, 8)


def test_neighbours_on_an_axis_are_neighbours_on_the_wires() -> None:
    """Where the numbers of chips follow hosts, and not rows of the torus."""
    grid = place((1, 4, 1, 4), "data", chips(4, 4))
    for line in (*grid[0, :, 0, :], *grid[0, :, 0, :].T):
        coords = np.asarray(at(line))
        apart = np.abs(np.roll(coords, -1, axis=0) - coords)
        assert (np.minimum(apart, 4 - apart).sum(axis=1) == 1).all()  # around the torus
    naive = np.asarray(at(np.asarray(chips(4, 4))[:4]))
    assert np.abs(np.diff(naive, axis=0)).sum(axis=1).max() > 1  # in their own order they are not


@pytest.mark.parametrize(
    ("across", "shape"),
    [("data", (2, 4, 1, 4)), ("data", (4, 2, 2, 2)), ("fsdp", (1, 8, 2, 2)), ("fsdp", (2, 4, 1, 4))],
)
def test_slices_lie_along_the_axis_that_is_named(across: str, shape: tuple[int, ...]) -> None:
    """A step along any other axis stays on its slice, and of this axis the first half is one slice."""
    grid = place(shape, across, chips(4, 4, n_slices=2))
    assert grid.shape == shape
    assert len({device.id for device in grid.flat}) == 32
    halves = np.split(grid, 2, axis=AXES.index(across))
    assert [{device.slice_index for device in half.flat} for half in halves] == [{0}, {1}]


@pytest.mark.parametrize(
    ("across", "shape", "other"),
    [
        ("data", (1, 8, 2, 2), "; or mesh.slices=fsdp"),
        ("fsdp", (32, 1, 1, 1), "; or mesh.slices=data"),
        ("data", (3, 1, 1, 2), ""),
    ],
)
def test_slices_that_cannot_lie_so_are_refused(across: str, shape: tuple[int, ...], other: str) -> None:
    size = shape[AXES.index(across)]
    with pytest.raises(
        UserError, match=rf"mesh.{across}={size} .* 2 slices .*\n  mend: mesh.{across}=2, or a multiple of it{other}$"
    ):
        place(shape, across, chips(4, 4, n_slices=2))


@pytest.mark.parametrize(("across", "data", "fsdp"), [("data", 2, 4), ("fsdp", 1, 8)])
def test_slices_as_libtpu_describes_them(tpu: Callable[..., list[Any]], across: Any, data: int, fsdp: int) -> None:
    devices = tpu("v5e:4x4", n_slices=2)
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, context=2, tensor=2, slices=across), devices)
    halves = np.split(mesh.devices, 2, axis=AXES.index(across))
    assert [{device.slice_index for device in half.flat} for half in halves] == [{0}, {1}]
    for half in halves:
        assert sorted(at(half)) == [(x, y) for x in range(4) for y in range(4)]
    with pytest.raises(UserError, match="cannot lie across the 2 slices"):
        make_mesh(MeshConfig(fsdp=1, tensor=32, slices=across), devices)
