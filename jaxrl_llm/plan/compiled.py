"""What the compiler says of the very step of a plan."""

import dataclasses
from dataclasses import dataclass

from jaxrl_llm.parallel.offload import as_on_host
from jaxrl_llm.plan.account import Plan
from jaxrl_llm.plan.shapes import batch_of, fixed_weights, row_length
from jaxrl_llm.plan.sizes import RESIDENT
from jaxrl_llm.plan.update import UPDATE
from jaxrl_llm.types import Rollouts


@dataclass(frozen=True)
class Compiled:
    """Bytes on a device, as the compiler says and as the plan does."""

    arguments: int
    temporaries: int
    planned_arguments: int
    planned_temporaries: int


def compile_step(plan: Plan) -> Compiled | None:
    """The step for the devices of the plan, which are here; None where the compiler does not say what it needs."""
    config, parts, training = plan.config, plan.parts, plan.config.training
    rows = training.batch_size // training.micro_batches
    batch = batch_of(config, parts, training.micro_batches, rows, row_length(config))
    fixed = fixed_weights(parts)
    fixed |= {role: as_on_host(fixed[role]) for role in parts.on_host}
    state = dataclasses.replace(parts.template, fixed=fixed)
    said = parts.step.lower(state, batch).compile().memory_analysis()
    if said is None:
        return None
    # Of rollouts the source has asked the reference: the step reads none.
    read = {"batch", *parts.algo.trained, *(() if parts.algo.consumes is Rollouts else parts.algo.frozen)}
    mine = [line for line in plan.lines if line.role in read]
    arguments = sum(line.size.device for line in mine if line.phase == RESIDENT or line.role == "batch")
    update = sum(line.size.device for line in mine if line.phase == UPDATE and line.counted and line.role != "batch")
    return Compiled(said.argument_size_in_bytes, said.temp_size_in_bytes, arguments, update)
