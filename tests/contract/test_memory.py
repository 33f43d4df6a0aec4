"""A device holds its share: of weights, optimizer, averages and caches, of every recipe of 8B and 70B, by shapes alone.

What is said of shapes is what is made: a step's results, and what checkpoints are restored into, have the shardings of
the same template.  (`test_algorithms` looks at the arrays themselves, `rollout/test_laid_out` at the sampler's.)
"""

from collections.abc import Iterator

import jax.numpy as jnp
import pytest

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config, load
from jaxrl_llm.parallel.mesh import AXES
from jaxrl_llm.parallel.specs import SAMPLER_RULES
from jaxrl_llm.plan.rollouts import cache_size, reward_lines, reward_models
from jaxrl_llm.plan.shapes import laid_out, one_layer, row_length
from jaxrl_llm.plan.sizes import Size, size_of
from jaxrl_llm.plan.target import Described
from jaxrl_llm.plan.weights import resident_lines
from jaxrl_llm.rollout.sampler import PREFILL_ROWS, PREFILL_TOKENS, bucket
from jaxrl_llm.types import Rollouts

RECIPE_OF = {kind: (f"{kind}/llama3.1-8b",) for kind in ALGOS} | {"pretrain": ("pretrain/llama2-7b",)}
VARIANTS = {
    "adapters": ("sft/llama3.1-8b_lora",),
    "adapters and a reward model": ("ppo/llama3.1-8b", "trainable={kind: lora, rank: 16}"),
    "layers": ("sft/llama3.1-8b", "trainable={kind: parts, layers: last 8, head: true}"),
    "on the host": ("ppo/llama3.1-8b", "compute.offload=frozen"),
    "averages": ("ppo/instructgpt", "model.preset=llama3.1-8b"),
    "muon": ("pretrain/llama2-7b", "optim={kind: muon}"),
    "reference in the step": ("dpo/llama3.1-8b", "algo.reference=step"),
    "few KV heads and odd rows": ("ppo/tinyllama-1.1b", "rollout.slots=60"),
    "70b": ("ppo/llama2-70b",),
    "70b sft": ("sft/llama3.1-8b", "model.preset=llama2-70b"),
}
MESHES = {
    "fsdp 8": (1, 8, 1, 1),
    "fsdp 4, tensor 2": (1, 4, 1, 2),
    "data 2, fsdp 2, tensor 2": (2, 2, 1, 2),
    "fsdp 2, context 2, tensor 2": (1, 2, 2, 2),
}


@pytest.mark.parametrize("shape", MESHES.values(), ids=[*MESHES])
@pytest.mark.parametrize("what", [*RECIPE_OF, *VARIANTS])
def test_a_device_holds_its_share(what: str, shape: tuple[int, int, int, int]) -> None:
    """At most 1.1 times as much as if a copy of everything were cut in equal parts."""
    name, *more = (RECIPE_OF | VARIANTS)[what]
    mesh = dict(zip(AXES, shape, strict=True))
    here = [f"mesh.{axis}={size}" for axis, size in mesh.items()]
    config = load(name, ["init_from=null", "compute.dtype=bfloat16", *more, *here])
    parts = assemble(config, [Described(i, "tpu", "TPU v5p") for i in range(8)])
    found = dict(sizes(config, parts))
    assert found
    for which, size in found.items():
        assert size.device + size.host <= 1.1 * size.total * mesh["data"] / 8, which


def sizes(config: Config, parts: Assembly) -> Iterator[tuple[str, Size]]:
    """Whatever is there for long."""
    rewards = reward_models(config, {}) if parts.algo.consumes is Rollouts else []
    for line in (*resident_lines(parts), *reward_lines(config, parts, rewards)):
        yield f"{line.role}: {line.what}", line.size
    if parts.algo.consumes is not Rollouts:
        return
    specs, rollout, length = parts.models["policy"].specs, config.rollout, row_length(config)
    weights = {**specs, "layers": [one_layer(specs["layers"])] * config.model.n_layers}
    yield "the sampler's weights", size_of(laid_out(weights, parts.mesh, jnp.dtype("bfloat16"), SAMPLER_RULES))
    slots = min(rollout.slots, rollout.prompts * rollout.n)
    yield "slots", cache_size(parts, slots, length)
    padded = bucket(length - rollout.max_new_tokens)
    yield "prompts", cache_size(parts, min(PREFILL_ROWS, PREFILL_TOKENS // padded), padded)
