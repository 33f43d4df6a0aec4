"""SimPO: preferences by the mean log-probability of a token, without a reference model."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
from jax import Array
from pydantic import Field

from jaxrl_llm.core.answers import log_probs, per_token
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.pairs import of_pairs, preference_metrics
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Pairs, Params


@schema
class SimpoConfig:
    """Simple preference optimisation (arXiv 2405.14734): no reference, and length does not count."""

    kind: Literal["simpo"] = "simpo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    frozen: ClassVar[Mapping[str, Head]] = {}
    cached: ClassVar[bool] = False
    consumes: ClassVar[type] = Pairs
    beta: float = Field(default=2.0, gt=0.0)
    """Scale of the reward β·l̄; the paper has 2 to 2.5."""
    gamma_ratio: float = Field(default=0.5, ge=0.0)
    """γ/β: by how many nats a token the better answer should lead; .3 to .5 is usual."""


def build(config: SimpoConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`."""
    token_scores = models["policy"].token_scores

    def loss(params: Params, batch: Pairs) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """−log σ(β (l̄_w − l̄_l) − γ), l̄ = mean log-probability of an answer's tokens, nats (arXiv 2405.14734, eq. 6).

        Row of the data: prompt "Who wrote Faust?", chosen "Goethe", rejected "Nobody".  Logged rewards are β·l̄, logged
        log-probabilities l̄.
        """
        mean_N = per_token(log_probs(token_scores, params["policy"], batch.answers), batch.answers)
        better_P, worse_P = of_pairs(mean_N, batch)
        lead_P = config.beta * (better_P - worse_P - config.gamma_ratio)
        terms = {"simpo": mean_of(-jax.nn.log_sigmoid(lead_P), batch.weight_P)}
        return terms, preference_metrics(config.beta * mean_N, mean_N, batch)

    def scores(params: Params, batch: Pairs) -> Array:
        """[N]: the reward β·l̄ of every slot."""
        return config.beta * per_token(log_probs(token_scores, params["policy"], batch.answers), batch.answers)

    return Algo(consumes=config.consumes, trained=config.trained, weights={"simpo": 1.0}, loss=loss, scores=scores)
