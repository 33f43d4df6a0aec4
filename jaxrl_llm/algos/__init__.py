"""Algorithms: a pure loss each, in one explicit table."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from jaxrl_llm.algos import dpo, kto, orpo, pretrain, reward, sft, simpo
from jaxrl_llm.types import Algo, Model

AlgoConfig = Annotated[
    pretrain.PretrainConfig
    | sft.SftConfig
    | reward.RewardConfig
    | dpo.DpoConfig
    | simpo.SimpoConfig
    | orpo.OrpoConfig
    | kto.KtoConfig,
    Field(discriminator="kind"),
]

ALGOS: Mapping[str, Callable[[Any, Mapping[str, Model]], Algo]] = {
    "pretrain": pretrain.build,
    "sft": sft.build,
    "reward": reward.build,
    "dpo": dpo.build,
    "simpo": simpo.build,
    "orpo": orpo.build,
    "kto": kto.build,
}
