"""How fast a run can be at best: what its arithmetic, memory and links take, were each busy all the time.

A phase takes as long as the slowest of the three, though they may overlap: the bound is from below, and what is
measured is longer.  Williams et al., "Roofline" (CACM 52(4), 2009).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxrl_llm.assemble import Assembly, forward_flops
from jaxrl_llm.config import Config
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.parallel.chips import Chip
from jaxrl_llm.parallel.mesh import WEIGHT_AXES, ways
from jaxrl_llm.parallel.specs import count_params
from jaxrl_llm.plan.account import Plan
from jaxrl_llm.plan.rollouts import sampler_shape
from jaxrl_llm.plan.shapes import row_length
from jaxrl_llm.plan.sizes import size_of
from jaxrl_llm.types import Rollouts

AGAIN = {"none": 1.0, "dots": 1.0, "full": 4 / 3}  # FLOPs with those of remat, for each that the maths needs


@dataclass(frozen=True)
class Roofline:
    """Of a step, or of a round of rollouts with all its updates."""

    tokens: int  # places of the rows that are learnt from
    seconds_by: Mapping[str, Mapping[str, float]]  # phase -> compute, memory, links -> seconds

    @property
    def seconds(self) -> float:
        """At least."""
        return sum(max(by.values()) for by in self.seconds_by.values())

    @property
    def tokens_per_s(self) -> float:
        """At most, over all devices."""
        return self.tokens / self.seconds

    def limit(self, phase: str) -> str:
        """What a phase waits for."""
        by = self.seconds_by[phase]
        return max(by, key=lambda name: by[name])


def make_roofline(plan: Plan, chip: Chip, sent: float | None = None) -> Roofline:
    """Of a plan on devices that are all such chips; `sent`: bytes a device and update, as the compiler has them."""
    config, parts = plan.config, plan.parts
    rollout, training, length = config.rollout, config.training, row_length(config)
    update = _update(config, parts, chip, sent)
    if parts.algo.consumes is not Rollouts:
        return Roofline(training.batch_size * length, {"update": update})
    answers = rollout.prompts * rollout.n
    updates = rollout.epochs * answers // training.batch_size
    flops = chip.bf16_flops * parts.mesh.size
    read = forward_flops(parts.models, parts.models, length) * answers * length
    found = {
        "sample": _sample(plan, chip),
        "prepare": {"compute": read / flops},
        "update": {name: updates * seconds for name, seconds in update.items()},
    }
    if plan.rewards:
        weights = sum(count_params(llama_specs(reward.model, reward.head)) for reward in plan.rewards)
        found["score"] = {"compute": 2 * weights * answers * length / flops}
    return Roofline(rollout.epochs * answers * length, found)


def _update(config: Config, parts: Assembly, chip: Chip, sent: float | None) -> dict[str, float]:
    training, mesh, length = config.training, parts.mesh, row_length(config)
    flops = parts.flops_per_token(length) * training.batch_size * length * AGAIN[config.compute.remat]
    whole = parts.n_params * parts.fixed_dtype.itemsize / mesh.shape["tensor"]  # as the maths reads them
    shard = size_of((parts.template.params, parts.template.opt_state)).device
    reads = 2 + (config.compute.remat == "full")  # forward, backward, and again
    found = {
        "compute": flops / (chip.bf16_flops * mesh.size),
        "memory": (training.micro_batches * reads * whole + 2 * shard) / chip.hbm_bandwidth,
    }
    if sent is None:  # gathered forward and backward, gradients summed over all that share the batch
        split, copies = ways(mesh, WEIGHT_AXES), mesh.shape["data"]
        gathers = 2 * whole * (1 - 1 / split) if split > 1 else 0.0
        sums = 2 * whole / split * (1 - 1 / copies) + whole * (1 - 1 / split)
        sent = training.micro_batches * (gathers + sums)
    if chip.link_bandwidth is not None:
        found["links"] = sent / chip.link_bandwidth
    return found


def _sample(plan: Plan, chip: Chip) -> dict[str, float]:
    """A token of all slots reads the weights and, on average, half of the cache."""
    config, parts = plan.config, plan.parts
    answers, shape = config.rollout.prompts * config.rollout.n, sampler_shape(config, parts)
    turns = answers / shape.slots * config.rollout.max_new_tokens
    policy = parts.models["policy"]
    n, mesh = count_params(policy.specs), parts.mesh
    weights = n * parts.fixed_dtype.itemsize / (mesh.size / mesh.shape["data"])
    cache = size_of(jax.eval_shape(lambda: policy.decoder.empty_cache(shape.slots, shape.length))).total / mesh.size
    return {
        "compute": 2 * n * answers * row_length(config) / (chip.bf16_flops * mesh.size),
        "memory": turns * (weights + cache / 2) / chip.hbm_bandwidth,
    }
