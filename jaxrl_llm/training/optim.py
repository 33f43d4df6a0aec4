"""Optimizers: AdamW, and Muon for matrices beside AdamW for the rest.  Who is decayed, who is Muon's: ParamSpec says.

Every optimizer is the same four links, and only the second differs:

    clip each role's gradient -> direction (Adam | Muon) -> + weight_decay·w where decayed -> × −schedule(step)

`update(grads, opt_state, params, step=state.step)`: the rate follows the step of the TrainState, not a counter in the
optimizer.  So a phase of continual pretraining can keep the moments of the one before and start its own schedule at 0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers, scale_by_muon
from pydantic import Field

from jaxrl_llm.parallel.mesh import ways
from jaxrl_llm.parallel.specs import ParamSpec, map_specs, partition_spec
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Params


@schema
class _Optim:
    """What both have: Llama 2's numbers, but for eps (1e-5 there)."""

    # Described in Field, which subclasses inherit with their JSON schema.
    kind: str
    b1: float = Field(default=0.9, ge=0.0, lt=1.0, description="AdamW: decay of the first moment.")
    b2: float = Field(default=0.95, ge=0.0, lt=1.0, description="AdamW: decay of the second moment.")
    eps: float = Field(default=1e-8, gt=0.0, description="AdamW: added to the root of the second moment.")
    weight_decay: float = Field(
        default=0.1,
        ge=0.0,
        description="Of matrices and embedding, times the rate; not of norms and biases.",
    )
    clip: float | None = Field(default=1.0, gt=0.0, description="Largest norm of a role's gradient; null never clips.")


@schema
class AdamwConfig(_Optim):
    """AdamW (arXiv 1711.05101)."""

    kind: Literal["adamw"] = "adamw"


@schema
class MuonConfig(_Optim):
    """Muon (Jordan et al. 2024): matrices move by their orthogonalised momentum; embedding, head and norms by AdamW."""

    kind: Literal["muon"] = "muon"
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of the gradient's running sum."""
    nesterov: bool = True
    """Look one step ahead along the momentum."""
    ns_steps: int = Field(default=5, ge=1)
    """Newton-Schulz iterations."""
    update_rms: float = Field(default=0.2, gt=0.0)
    """Root mean square of a Muon update before the learning rate, for any shape: .2 is what AdamW's measure (arXiv
    2502.16982), so one schedule and one decay serve both groups.  Raise it for matrices that learn faster."""


OptimConfig = Annotated[AdamwConfig | MuonConfig, Field(discriminator="kind")]


def make_optimizer(
    config: OptimConfig,
    schedule: Callable[[Array], Array],
    specs: Params,
    mesh: Mesh,
    rates: Mapping[str, Callable[[Array], Array]] = {},
) -> optax.GradientTransformationExtraArgs:
    """The whole update of `{role: tree}` params; `specs` is a tree of ParamSpecs of the same structure.

    `update(grads, state, params, step=...)` gives what `optax.apply_updates` adds; `step` counts updates from 0.
    `rates` has the schedule of each role that has one of its own.
    """
    return optax.chain(
        clip_by_role(config.clip) if config.clip is not None else optax.identity(),
        DIRECTIONS[config.kind](config, specs, mesh),
        optax.add_decayed_weights(config.weight_decay, mask=map_specs(is_decayed, specs)),
        scale_by_step({role: rates.get(role, schedule) for role in specs}),
    )


def is_decayed(spec: ParamSpec) -> bool:
    """Matrices and the embedding decay, as in Llama 2; scales of norms and biases, stacked or not, do not."""
    return bool(spec.inputs) or "vocab" in spec.axes


def clip_by_role(max_norm: float) -> optax.GradientTransformation:
    """Clips each role's gradient by its own global norm.

    Under one common norm the loud gradient of a fresh critic would shrink the policy's update whenever it is clipped,
    and the policy's learning rate would mean something else than it does without a critic.
    """
    clip = optax.clip_by_global_norm(max_norm)
    return optax.stateless(lambda grads, _: {role: clip.update(g, optax.EmptyState())[0] for role, g in grads.items()})


def gradient_norms(grads: Params) -> dict[str, Array]:
    """`grad_norm` over all roles, and `grad_norm/ROLE` each where there are several; float32, as before clipping."""
    roles = {f"grad_norm/{role}": optax.tree.norm(tree) for role, tree in grads.items()}
    return {"grad_norm": optax.tree.norm(roles)} | (roles if len(roles) > 1 else {})


def scale_by_step(rates: Mapping[str, Callable[[Array], Array]]) -> optax.GradientTransformationExtraArgs:
    """Times −rates[role](step), with the step that `update` is given: it has no counter that could disagree."""

    def update(updates: Params, state: Any, params: Any = None, *, step: Array, **_: Any) -> tuple[Params, Any]:
        def scaled(role: str) -> Params:
            rate = rates[role](step)
            return jax.tree.map(lambda u: -rate * u, updates[role])

        return {role: scaled(role) for role in updates}, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def adamw(config: AdamwConfig | MuonConfig, specs: Params, mesh: Mesh) -> optax.GradientTransformation:
    """Adam's direction; the decay and the rate follow in `make_optimizer`."""
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def muon(config: MuonConfig, specs: Params, mesh: Mesh) -> optax.GradientTransformation:
    """Muon's direction for the specs that have `muon_dimensions`, Adam's for the others."""

    def orthogonalised(momentum: Params, _: Params) -> Params:
        def one(m: Array | optax.MaskedNode, spec: ParamSpec) -> Array | optax.MaskedNode:
            return m if is_masked(m) else orthogonalise(m, spec, mesh, config.ns_steps, config.update_rms)

        return jax.tree.map(one, momentum, specs, is_leaf=is_masked)

    matrices = optax.chain(optax.trace(config.momentum, config.nesterov), optax.stateless(orthogonalised))
    groups = map_specs(lambda spec: "muon" if muon_dimensions(spec) else "adamw", specs)
    return optax.partition({"muon": matrices, "adamw": adamw(config, specs, mesh)}, groups)


DIRECTIONS: dict[str, Callable[..., optax.GradientTransformation]] = {"adamw": adamw, "muon": muon}


def muon_dimensions(spec: ParamSpec) -> MuonDimensionNumbers | None:
    """Which axes are the rows and which the columns of a weight's matrices; None puts the weight into AdamW's group.

    A stacked wq [L, D, H, C] is L matrices of D x (H·C).  AdamW keeps vectors and tables (no `inputs`), the head (a
    vocabulary is no basis to rotate), and a scalar head (one column: orthogonalising would only normalise it).
    """
    rows = tuple(i for i, axis in enumerate(spec.axes) if axis in spec.inputs)
    columns = tuple(i for i, axis in enumerate(spec.axes) if axis not in (*spec.inputs, "layers"))
    if not rows or "vocab" in spec.axes or math.prod(spec.shape[i] for i in columns) == 1:
        return None
    return MuonDimensionNumbers(rows, columns)


def orthogonalise(m: Array, spec: ParamSpec, mesh: Mesh, ns_steps: int, rms: float) -> Array:
    """Newton-Schulz on every layer's matrix, scaled to this root mean square; `m` has the spec's shape and sharding."""
    dims = muon_dimensions(spec)
    assert dims is not None
    rows, columns = (math.prod(spec.shape[i] for i in axes) for axes in dims)
    # optax's Muon with beta 0 is its orthogonalisation alone; the momentum comes before it, where it can stay sharded.
    newton_schulz = scale_by_muon(beta=0.0, nesterov=False, ns_steps=ns_steps, weight_dimension_numbers=dims)
    m = deal_layers(lambda m: newton_schulz.update(m, newton_schulz.init(m))[0], m, spec, mesh)
    return m * (rms * math.sqrt(max(rows, columns)))  # r singular values of 1 in an r x R matrix: mean square 1/R


def deal_layers(fn: Callable[[Array], Array], m: Array, spec: ParamSpec, mesh: Mesh) -> Array:
    """`fn(m)` for a function that treats layers apart, with the layers dealt out to the devices that share the weight.

    For each mesh axis one all-to-all there and one back, and between them every matrix lies whole on one device.  (Left
    to the compiler, each device gathers the whole stack, again in each iteration.)  Layers that do not divide the
    devices are filled up with zeros.
    """
    place = partition_spec(spec.shape, spec.axes, mesh)
    split = [(i, axes) for i, axes in enumerate(place) if axes is not None]
    if "layers" not in spec.axes or not split:
        return fn(m)
    layers = spec.axes.index("layers")
    missing = -spec.shape[layers] % math.prod(ways(mesh, axes) for _, axes in split)

    def dealt(m: Array) -> Array:
        m = jnp.pad(m, [(0, missing if i == layers else 0) for i in range(m.ndim)])
        for i, axes in split:
            m = jax.lax.all_to_all(m, axes, split_axis=layers, concat_axis=i, tiled=True)
        m = fn(m)
        for i, axes in reversed(split):
            m = jax.lax.all_to_all(m, axes, split_axis=i, concat_axis=layers, tiled=True)
        return jax.lax.slice_in_dim(m, 0, spec.shape[layers], axis=layers)

    return jax.shard_map(dealt, mesh=mesh, in_specs=place, out_specs=place)(m)


def is_masked(leaf: Any) -> bool:
    """For `is_leaf=`: the places that optax leaves empty in the state of a partitioned optimizer."""
    return isinstance(leaf, optax.MaskedNode)


def optimizer_shardings(
    tx: optax.GradientTransformation, params_shape: Params, param_shardings: Params, mesh: Mesh
) -> Params:
    """A sharding for every leaf of the optimizer's state: moments lie where their weights do, counters everywhere.

    It must be said: left alone, `jax.jit(tx.init)` puts the moments of sharded weights onto one device.
    """
    return optax.tree.map_params(
        tx,
        lambda leaf, sharding: leaf if is_masked(leaf) else sharding,
        jax.eval_shape(tx.init, params_shape),
        param_shardings,
        transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()),
        is_leaf=is_masked,
    )


def init_opt_state(tx: optax.GradientTransformation, params: Params, shardings: Params) -> Params:
    """The optimizer's state, made where it lives."""
    return jax.jit(tx.init, out_shardings=shardings)(params)
