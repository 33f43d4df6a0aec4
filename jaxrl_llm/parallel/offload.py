"""Weights that wait in the host's memory and come to the device for as long as they are used.

Where they wait is said by the arrays themselves: what reads weights asks `fetched` for them, whichever they are.
"""

from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding

from jaxrl_llm.parallel.specs import ParamSpec, partition_spec, shardings

HOST = "pinned_host"


def to_host(specs: Any, weights: Any, mesh: Mesh) -> Any:
    """The weights in the host's memory, split as they were: beside each device its own part."""
    return jax.device_put(weights, jax.tree.map(lambda s: s.with_memory_kind(HOST), shardings(specs, mesh)))


def as_on_host(weights: Any) -> Any:
    """Shapes of weights as `to_host` puts them, on devices that are here or have a compiler."""

    def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        assert x.sharding is not None
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind(HOST))

    return jax.tree.map(one, weights)


def waits(weights: Any) -> bool:
    """Whether these (or the first of a tree) wait on the host; known while a program is traced."""
    return bool(jax.typeof(jax.tree.leaves(weights)[0]).memory_space == jax.memory.Space.Host)


def fetched(spec: ParamSpec, w: Array, mesh: Mesh) -> Array:
    """The weight, or one layer of a stack of them, on the devices in the split of `spec`.

    The split is said again, or the compiler would put the parts together on the host.
    """
    if not waits(w):
        return w
    there = NamedSharding(mesh, partition_spec(w.shape, spec.axes[-w.ndim :], mesh))
    return jax.lax.with_sharding_constraint(jax.device_put(w, jax.memory.Space.Device), there)
