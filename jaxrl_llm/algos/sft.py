"""Supervised fine-tuning: next-token prediction of what the assistant says."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp

from jaxrl_llm.core.means import mean_of
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Params, Tokens


@schema
class SftConfig:
    """Next-token prediction of the assistant's turns, prompts masked."""

    kind: Literal["sft"] = "sft"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    frozen: ClassVar[Mapping[str, Head]] = {}
    cached: ClassVar[bool] = False
    consumes: ClassVar[type] = Tokens


def build(config: SftConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`."""
    token_scores = models["policy"].token_scores

    def loss(params: Params, batch: Tokens) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """Mean over the assistant's tokens, end token included, of −log p(target), in nats (InstructGPT, 2203.02155).

        Row of the data, without the template's marks, each token with the weight of its message:

            inputs    <bos> 2 + 2 ?   \\n  4
            targets     2   + 2 ? \\n 4  <eos>
            weights     0   0 0 0 0  1   1

        Metric `trained_fraction`: the share of tokens, padding aside, that have a weight.
        """
        nll = mean_of(-token_scores(params["policy"], batch).logp_BT, batch.weights_BT)
        real_BT = jnp.ones_like(batch.inputs_BT) if batch.segments_BT is None else batch.segments_BT > 0
        trained = mean_of((batch.weights_BT > 0).astype(jnp.float32), real_BT)
        return {"nll": nll}, {"nll": nll, "trained_fraction": trained}

    return Algo(consumes=config.consumes, trained=config.trained, weights={"nll": 1.0}, loss=loss)
