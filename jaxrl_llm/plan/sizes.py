"""Bytes: of each array once, and on the device that holds most; and the lines of an account of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

RESIDENT = "resident"  # the phase of what is there in all of them


@dataclass(frozen=True)
class Size:
    """Bytes of arrays."""

    total: int = 0  # of each once
    device: int = 0  # on the device that holds most
    host: int = 0  # in the host's memory beside that device

    def __add__(self, other: "Size") -> "Size":
        return Size(self.total + other.total, self.device + other.device, self.host + other.host)

    def __mul__(self, times: int) -> "Size":
        return Size(self.total * times, self.device * times, self.host * times)

    def on_host(self) -> "Size":
        """The same where it waits on the host."""
        return Size(self.total, 0, self.device)


@dataclass(frozen=True)
class Line:
    """Some arrays of a run."""

    phase: str  # in which they are there
    role: str  # whose they are
    what: str
    size: Size
    exact: bool = True  # from shapes; else by rule of thumb
    counted: bool = True  # False: never there at once with a larger one beside it


def size_of(tree: Any) -> Size:
    """Of ShapeDtypeStructs; one without a sharding lies whole on every device."""
    return sum((_of_leaf(leaf) for leaf in jax.tree.leaves(tree)), Size())


def _of_leaf(leaf: jax.ShapeDtypeStruct) -> Size:
    shard = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return Size(math.prod(leaf.shape) * leaf.dtype.itemsize, math.prod(shard) * leaf.dtype.itemsize)


def on_each(n_bytes: float, n_devices: int) -> Size:
    """What every device has for itself."""
    return Size(round(n_bytes) * n_devices, round(n_bytes))


def one_at_a_time(phase: str, found: Sequence[tuple[float, str, str]], n_devices: int) -> Iterator[Line]:
    """Lines of (bytes on a device, role, what), of which the largest counts: they are not there at once."""
    largest = max(found, default=None)
    for each in found:
        n_bytes, role, what = each
        yield Line(phase, role, what, on_each(n_bytes, n_devices), exact=False, counted=each is largest)
