"""A weight is stated once: its shape, the logical name of each axis, and how it starts.

Initial values, sharding, restore targets, parameter count, decay mask, optimizer group and foreign names all derive
from the tree of ParamSpecs, so that none of them can disagree with another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.parallel.mesh import WEIGHT_AXES, ways

Rules = Mapping[str, str | tuple[str, ...]]

# Logical axis -> mesh axis (or axes).  Names that are absent are not split; where two names of one array want the same
# mesh axis, the one that stands first here has it.
RULES: Rules = {  # of the learner: weights are split along fsdp and context, and gathered a layer at a time
    "batch": ("data", "fsdp"),
    "embed": WEIGHT_AXES,
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "rank": WEIGHT_AXES,  # of the adapter's matrix that has no embed
    "rank_by_embed": "tensor",  # of the other
}
SAMPLER_RULES: Rules = {  # of the sampler: a token is too little work to gather weights, so all split the maths
    "batch": "data",
    "vocab": ("fsdp", "context", "tensor"),
    "mlp": ("fsdp", "context", "tensor"),
    "heads": ("fsdp", "context", "tensor"),
    "kv_heads": ("fsdp", "context", "tensor"),
    "embed": ("fsdp", "context", "tensor"),
}


@dataclass(frozen=True)
class ParamSpec:
    """One weight: `ParamSpec((22, 2048, 32, 64), ("layers", "embed", "heads", "channels"), normal(0.02))`.

    `inputs` names the axes that a matrix product sums over; the axes besides them and "layers" are its outputs.
    A weight without `inputs` is a vector or a table, not a matrix: Muon leaves it be, and a vector is not decayed.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Callable[[Array, tuple[int, ...]], Array]
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def normal(std: float) -> Callable[[Array, tuple[int, ...]], Array]:
    """Normal initial values with this standard deviation."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def ones(key: Array, shape: tuple[int, ...]) -> Array:
    """All ones: the scale of a norm."""
    return jnp.ones(shape, jnp.float32)


def zeros(key: Array, shape: tuple[int, ...]) -> Array:
    """All zeros: a bias."""
    return jnp.zeros(shape, jnp.float32)


def is_spec(leaf: Any) -> bool:
    """For `is_leaf=`."""
    return isinstance(leaf, ParamSpec)


def map_specs(fn: Callable[[ParamSpec], Any], specs: Any) -> Any:
    """`jax.tree.map` over ParamSpecs."""
    return jax.tree.map(fn, specs, is_leaf=is_spec)


def count_params(specs: Any) -> int:
    """Number of parameters of a spec tree."""
    return sum(spec.size for spec in jax.tree.leaves(specs, is_leaf=is_spec))


def partition_spec(
    shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh, rules: Rules = RULES
) -> PartitionSpec:
    """Rules applied to one array.  What its mesh axis does not divide stays whole (2 KV heads on tensor=4)."""
    out: list[Any] = [None] * len(shape)
    taken: set[str] = set()
    for name, target in rules.items():
        group = (target,) if isinstance(target, str) else tuple(axis for axis in target if mesh.shape[axis] > 1)
        if name in axes and not taken.intersection(group) and shape[axes.index(name)] % ways(mesh, group) == 0:
            out[axes.index(name)] = group[0] if len(group) == 1 else group or None
            taken.update(group)
    return PartitionSpec(*out)


def shardings(specs: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every weight."""
    return map_specs(lambda s: NamedSharding(mesh, partition_spec(s.shape, s.axes, mesh)), specs)


def init_params(specs: Any, key: Array, mesh: Mesh) -> Any:
    """Initial float32 weights, made where they live: each device computes its own shard, no host holds the model.

    Each weight's key is folded from its place in the tree, so adding a weight changes no other.
    """

    def init(key: Array) -> Any:
        def one(path: Any, spec: ParamSpec) -> Array:
            name = jax.tree_util.keystr(path)
            return spec.init(jax.random.fold_in(key, _hash31(name)), spec.shape)

        return jax.tree_util.tree_map_with_path(one, specs, is_leaf=is_spec)

    return jax.jit(init, out_shardings=shardings(specs, mesh))(key)


def _hash31(text: str) -> int:
    """A stable 31-bit hash (Python's own is salted per process)."""
    import zlib

    return zlib.crc32(text.encode()) & 0x7FFFFFFF
