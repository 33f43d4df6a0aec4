"""Pretraining: next-token prediction."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from pydantic import Field

from jaxrl_llm.core.means import mean_of
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Params, Tokens


@schema
class PretrainConfig:
    """Next-token prediction on packed text."""

    kind: Literal["pretrain"] = "pretrain"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    frozen: ClassVar[Mapping[str, Head]] = {}
    cached: ClassVar[bool] = False
    consumes: ClassVar[type] = Tokens
    z_loss: float = Field(default=0.0, ge=0.0)
    """Weight of mean(log Z squared), which keeps the softmax normaliser Z near 1 (PaLM, arXiv 2204.02311: 1e-4)."""


def build(config: PretrainConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`."""
    token_scores = models["policy"].token_scores

    def loss(params: Params, batch: Tokens) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """Mean over tokens of −log p(target) + z_loss·(log Z)², in nats.

        Row of the data: inputs `<bos> O n c e`, targets `O n c e   `, weight 1 at each.
        """
        scores = token_scores(params["policy"], batch)
        nll = mean_of(-scores.logp_BT, batch.weights_BT)
        z = mean_of(jnp.square(scores.logz_BT), batch.weights_BT)
        terms = {"nll": nll} if config.z_loss == 0.0 else {"nll": nll, "z": z}
        return terms, {"nll": nll}

    weights = {"nll": 1.0} if config.z_loss == 0.0 else {"nll": 1.0, "z": config.z_loss}
    return Algo(consumes=config.consumes, trained=config.trained, weights=weights, loss=loss)
