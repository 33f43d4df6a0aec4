"""The one train step.  Every algorithm's loss is differentiated, accumulated and applied here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrl_llm.training.optim import gradient_norms
from jaxrl_llm.training.state import merge
from jaxrl_llm.types import Algo, Mean, Params, TrainState


@dataclass(frozen=True)
class Step:
    """One update: `step(state, batch) -> (state, metrics)`; see `make_step`."""

    jitted: jax.stages.Wrapped  # (step, params, opt_state, fixed, batch): what is lowered to be looked at

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        """The state after it, and its metrics, unfetched."""
        step, params, opt_state, metrics = self.jitted(state.step, state.params, state.opt_state, state.fixed, batch)
        return TrainState(step=step, params=params, fixed=state.fixed, opt_state=opt_state), metrics


def make_step(
    algo: Algo,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Array], Array],
    shardings: TrainState,
    roles: Callable[[Params, Params], Params] = merge,
) -> Step:
    """One jitted update, `step(state, batch) -> (state, metrics)`; batch leaves [M, b, ...], metrics float32 scalars.

    The gradient is that of sum_k weights[k] · total_k / count_k with totals and counts over the *whole* batch, so M
    micro-batches of ragged rows give the update of one large one.  Counts come first: they depend on the batch alone,
    and the compiler drops the forward pass of the counting.  `algo.prepare` comes before all of it, over the whole
    batch and outside the gradient.  `roles(params, fixed)` is what loss and prepare read: a tree for each role.

    Donated: step, params and optimizer state.  Never donated: `fixed`.
    """

    def terms_of(params: Params, fixed: Params, rows: Any) -> tuple[dict[str, Mean], dict[str, Mean]]:
        return algo.loss(roles(params, fixed), rows)

    def update(
        step: Array, params: Params, opt_state: Params, fixed: Params, batch: Any
    ) -> tuple[Array, Params, Params, dict[str, Array]]:
        if algo.prepare is not None:
            batch = jax.lax.stop_gradient(algo.prepare(roles(params, fixed), batch))

        def counts_of(rows: Any) -> dict[str, Array]:
            return {name: mean.count for name, mean in terms_of(params, fixed, rows)[0].items()}

        counts = _sum_over_micro_batches(counts_of, batch)

        def objective(params: Params, rows: Any) -> tuple[Array, dict[str, Mean]]:
            terms, metrics = terms_of(params, fixed, rows)
            parts = [algo.weights[name] * mean.total / jnp.maximum(counts[name], 1e-6) for name, mean in terms.items()]
            return sum(parts, start=jnp.zeros(())), metrics

        def value_and_grads(rows: Any) -> Any:
            (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params, rows)
            return value, metrics, jax.lax.with_sharding_constraint(grads, shardings.params)

        value, means, grads = _sum_over_micro_batches(value_and_grads, batch)
        updates, opt_state = tx.update(grads, opt_state, params, step=step)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": value, "lr": schedule(step), **gradient_norms(grads)}
        metrics |= {name: jnp.where(count > 0, total / count, jnp.nan) for name, (total, count) in means.items()}
        metrics |= {f"count/{name}": count for name, count in counts.items() if name not in algo.sparse}
        return step + 1, params, opt_state, metrics

    jitted = jax.jit(
        update,
        donate_argnums=(0, 1, 2),
        out_shardings=(shardings.step, shardings.params, shardings.opt_state, shardings.step),
    )

    return Step(jitted)


def _sum_over_micro_batches(fn: Callable[[Any], Any], batch: Any) -> Any:
    """sum over m of fn(batch[m]), one after the other, in float32 carries of fn's shape."""
    n_micro = jax.tree.leaves(batch)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], batch)
    if n_micro == 1:
        return fn(first)

    def add(carry: Any, rows: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, fn(rows)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, first))
    return jax.lax.scan(add, zeros, batch)[0]
