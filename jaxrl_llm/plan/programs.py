"""The very programs of a run, for the devices of its plan, from shapes alone."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.assemble import Assembly, weights_template
from jaxrl_llm.evals.score import reward_scorer
from jaxrl_llm.models import build_model
from jaxrl_llm.parallel.mesh import BATCH_AXES, ways
from jaxrl_llm.parallel.offload import as_on_host
from jaxrl_llm.plan.account import Plan
from jaxrl_llm.plan.rollouts import dtype_of, sampler_shape, score_length, weights_of
from jaxrl_llm.plan.shapes import answers_of_a_round, batch_of, fixed_weights, round_shape, row_length
from jaxrl_llm.plan.sizes import RESIDENT, size_of
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.slots import make_slot_functions
from jaxrl_llm.types import Params, Rollouts, TrainState


@dataclass(frozen=True)
class Program:
    """One of them."""

    name: str
    phase: str  # of the plan, in which it runs
    compile: Callable[[], jax.stages.Compiled]
    beside: int  # bytes on a device of what it does not read and is there all the same


def programs(plan: Plan) -> Iterator[Program]:
    """Of a run on fixed data its step; on rollouts also what writes, rates and prepares the answers."""
    config, parts, training = plan.config, plan.parts, plan.config.training
    rows = training.batch_size // training.micro_batches
    batch = batch_of(config, parts, training.micro_batches, rows, row_length(config))
    state, resident = run_state(parts), plan.of(RESIDENT).device
    step = functools.partial(parts.step.lower, state, batch)
    if parts.algo.consumes is not Rollouts:
        yield Program("update", "update", lambda: step().compile(), 0)
        return
    yield from sampling(plan, resident)
    yield from scoring(plan, resident)
    answers = answers_of_a_round(config, parts)
    prepare = functools.partial(parts.prepare.lower, state, answers)
    unread = resident - size_of((state.params, fixed_weights(parts))).device
    yield Program("prepare", "prepare", lambda: prepare().compile(), max(unread, 0))
    unread = resident - size_of((parts.template.params, parts.template.fixed, state.opt_state, state.ema)).device
    a_round = size_of(batch_of(config, parts, *round_shape(config), row_length(config))).device
    yield Program("update", "update", lambda: step().compile(), unread + max(a_round - size_of(batch).device, 0))


def run_state(parts: Assembly) -> TrainState:
    """All that a step is given."""
    fixed = fixed_weights(parts)
    fixed |= {role: as_on_host(fixed[role]) for role in parts.on_host}
    return dataclasses.replace(parts.template, fixed=fixed)


def sampling(plan: Plan, resident: int) -> Iterator[Program]:
    """What `Sampler` runs: weights laid out, prompts read, tokens written until the host has to look."""
    config, parts = plan.config, plan.parts
    shape, sampling = sampler_shape(config, parts), SamplingConfig(temperature=config.rollout.temperature)
    functions = make_slot_functions(parts.models["policy"], parts.mesh, sampling, (0,))
    policy = weights_template(parts.models["policy"].specs, parts.mesh)

    @functools.cache
    def lay_out() -> jax.stages.Compiled:
        return functions.prepare.lower(policy).compile()  # type: ignore[attr-defined]  # jitted

    @functools.cache
    def weights() -> Params:
        made = jax.eval_shape(functions.prepare, policy)
        return jax.tree.map(laid_out_as, made, lay_out().output_shardings)

    def prefill() -> jax.stages.Compiled:
        tokens_PT = jax.ShapeDtypeStruct((shape.prompts, shape.padded), "int32")
        return functions.prefill.lower(weights(), tokens_PT, tokens_PT.update(shape=(shape.prompts,))).compile()  # type: ignore[attr-defined]

    def write() -> jax.stages.Compiled:
        empty = functools.partial(functions.empty, shape.slots, shape.length, shape.new)
        where = functions.empty.lower(shape.slots, shape.length, shape.new).compile().output_shardings  # type: ignore[attr-defined]
        slots, number = jax.tree.map(laid_out_as, jax.eval_shape(empty), where), jax.ShapeDtypeStruct((), "int32")
        return functions.write.lower(weights(), slots, number, number).compile()  # type: ignore[attr-defined]

    yield Program("lay out weights", "sample", lay_out, resident - size_of(policy).device)
    yield Program("read prompts", "sample", prefill, resident)
    yield Program("write tokens", "sample", write, resident)


def scoring(plan: Plan, resident: int) -> Iterator[Program]:
    """What each reward model runs, of the longest rows."""
    config, parts = plan.config, plan.parts
    per_call = config.training.batch_size // config.training.micro_batches
    rows = -(-per_call // ways(parts.mesh, BATCH_AXES)) * ways(parts.mesh, BATCH_AXES)
    by_row, whole = (NamedSharding(parts.mesh, PartitionSpec(axes)) for axes in (BATCH_AXES, None))
    for reward in plan.rewards:
        compute = dataclasses.replace(reward.compute, dtype=dtype_of(reward, config).name)  # type: ignore[arg-type]
        model = build_model(reward.model, compute, parts.mesh, reward.head)
        weights = weights_of(reward, config, parts)
        weights = as_on_host(weights) if parts.offloads else weights
        tokens = jax.ShapeDtypeStruct((rows, score_length(reward, config)), "int32", sharding=by_row)
        arrays = (tokens, tokens.update(dtype="bool"), tokens.update(shape=(rows,)))
        run = jax.jit(reward_scorer(model), out_shardings=whole)
        unread = resident - (0 if parts.offloads else size_of(weights).device)
        yield Program(f"score: {reward.name}", "score", functools.partial(compiled, run, weights, *arrays), unread)


def compiled(run: jax.stages.Wrapped, *args: Any) -> jax.stages.Compiled:
    """The program of these shapes."""
    return run.lower(*args).compile()


def laid_out_as(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """The shape with this sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
