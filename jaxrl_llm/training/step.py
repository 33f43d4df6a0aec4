"""The one train step.  Every algorithm's loss is differentiated, accumulated and applied here and nowhere else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrl_llm.training.optim import gradient_norms
from jaxrl_llm.training.state import merge
from jaxrl_llm.types import Algo, Mean, Params, Rollouts, TrainState


@dataclass(frozen=True)
class Step:
    """One update: `step(state, batch) -> (state, metrics)`; see `make_step`."""

    jitted: jax.stages.Wrapped  # (changed, fixed, batch): what is lowered to be looked at

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        """The state after it, and its metrics, unfetched."""
        changed, metrics = self.jitted(Changed.of(state), state.fixed, batch)
        return TrainState(fixed=state.fixed, **changed._asdict()), metrics

    def lower(self, state: TrainState, batch: Any) -> jax.stages.Lowered:
        """The program of this state and batch, or of such shapes."""
        return self.jitted.lower(Changed.of(state), state.fixed, batch)


class Changed(NamedTuple):
    """Of a TrainState what a step changes, and is given away to it."""

    step: Array
    params: Params
    opt_state: Params
    ema: Params

    @staticmethod
    def of(state: TrainState) -> "Changed":
        """Of a state, or of its shardings."""
        return Changed(state.step, state.params, state.opt_state, state.ema)


def make_step(
    algo: Algo,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Array], Array],
    shardings: TrainState,
    roles: Callable[[Params, Params], Params] = merge,
    ema: float | None = None,
    rates: Mapping[str, Callable[[Array], Array]] = {},
) -> Step:
    """One jitted update, `step(state, batch) -> (state, metrics)`; batch leaves [M, b, ...], metrics float32 scalars.

    The gradient is that of sum_k weights[k] · total_k / count_k with totals and counts over the *whole* batch, so M
    micro-batches of ragged rows give the update of one large one.  Counts come first: they depend on the batch alone,
    and the compiler drops the forward pass of the counting.  `algo.prepare` comes before all of it, over the whole
    batch and outside the gradient; rollouts were prepared by their source.  `roles(params, fixed)` is what loss and
    prepare read: a tree for each role.  With `ema` e the averages of `state.ema` move: e·average + (1 − e)·weight.
    `rates` are the schedules of roles with one of their own, for the metrics.

    Donated: all that changes.  Never donated: `fixed`.
    """
    prepare = None if algo.consumes is Rollouts else algo.prepare

    def terms_of(params: Params, fixed: Params, rows: Any) -> tuple[dict[str, Mean], dict[str, Mean]]:
        return algo.loss(roles(params, fixed), rows)

    def update(changed: Changed, fixed: Params, batch: Any) -> tuple[Changed, dict[str, Array]]:
        step, params, opt_state, averages = changed
        if prepare is not None:
            batch = jax.lax.stop_gradient(prepare(roles(params, fixed), batch))

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
        metrics |= {f"lr/{role}": rate(step) for role, rate in rates.items()}
        metrics |= {name: jnp.where(count > 0, total / count, jnp.nan) for name, (total, count) in means.items()}
        metrics |= {f"count/{name}": count for name, count in counts.items() if name not in algo.sparse}
        if ema is not None:
            now = {role: params[role] for role in averages}
            averages = jax.tree.map(lambda average, w: ema * average + (1.0 - ema) * w, averages, now)
        return Changed(step + 1, params, opt_state, averages), metrics

    jitted = jax.jit(update, donate_argnums=0, out_shardings=(Changed.of(shardings), shardings.step))
    return Step(jitted)


def _sum_over_micro_batches(fn: Callable[[Any], Any], batch: Any) -> Any:
    """sum over m of fn(batch[m]), one after the other, in float32 carries of fn's shape.

    The barrier keeps sums over devices where they are: XLA for TPU would put the head's off until after the last
    micro-batch, and meanwhile each device would have that whole gradient in float32.
    """
    n_micro = jax.tree.leaves(batch)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], batch)
    if n_micro == 1:
        return fn(first)

    def add(carry: Any, rows: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, jax.lax.optimization_barrier(fn(rows))), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, first))
    return jax.lax.scan(add, zeros, batch)[0]
