"""Algorithms: a pure loss each, in one explicit table."""

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from jaxrl_llm.algos import dpo, grpo, kto, orpo, ppo, pretrain, reward, rloo, sft, simpo
from jaxrl_llm.types import Algo

AlgoConfig = Annotated[
    pretrain.PretrainConfig
    | sft.SftConfig
    | reward.RewardConfig
    | dpo.DpoConfig
    | simpo.SimpoConfig
    | orpo.OrpoConfig
    | kto.KtoConfig
    | ppo.PpoConfig
    | grpo.GrpoConfig
    | rloo.RlooConfig,
    Field(discriminator="kind"),
]

# build(config, models by role, temperature that answers are sampled at); the last for what learns from rollouts alone
ALGOS: Mapping[str, Callable[..., Algo]] = {
    "pretrain": pretrain.build,
    "sft": sft.build,
    "reward": reward.build,
    "dpo": dpo.build,
    "simpo": simpo.build,
    "orpo": orpo.build,
    "kto": kto.build,
    "ppo": ppo.build,
    "grpo": grpo.build,
    "rloo": rloo.build,
}
