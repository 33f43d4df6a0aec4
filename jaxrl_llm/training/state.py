"""The train state: made in its sharding, split into trained and fixed, put together again for the loss."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.training.optim import init_opt_state, optimizer_shardings
from jaxrl_llm.types import Params, TrainState


def merge(params: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of dicts with no leaf in common, as one: the params that a loss reads."""
    out = dict(params)
    for name, leaf in fixed.items():
        out[name] = merge(out[name], leaf) if name in out else leaf
    return out


def state_shardings(
    tx: optax.GradientTransformation, params: Params, fixed: Params, mesh: Mesh, averaged: Collection[str] = ()
) -> TrainState:
    """A TrainState of NamedShardings: weights as they lie (arrays or ShapeDtypeStructs), all else alike.

    `averaged` are the roles that have a running average.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    where, fixed_where = (jax.tree.map(lambda x: x.sharding, tree) for tree in (params, fixed))
    return TrainState(
        step=replicated,  # type: ignore[arg-type]
        params=where,
        fixed=fixed_where,
        opt_state=optimizer_shardings(tx, params, where, mesh),
        ema={role: where[role] for role in averaged},
    )


def new_state(
    tx: optax.GradientTransformation, params: Params, fixed: Params, shardings: TrainState, opt_state: Params = None
) -> TrainState:
    """Step 0 with these weights and this optimizer state, or a fresh one; averages begin at the weights."""
    if opt_state is None:
        opt_state = init_opt_state(tx, params, shardings.opt_state)
    step: Array = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    ema = jax.tree.map(jnp.copy, {role: params[role] for role in shardings.ema})
    return TrainState(step=step, params=params, fixed=fixed, opt_state=opt_state, ema=ema)
