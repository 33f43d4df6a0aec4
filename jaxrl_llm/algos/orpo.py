"""ORPO: fine-tuning on the better answer and away from the worse one at once, without a reference model."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrl_llm.core.answers import log_probs, per_token, tokens_of_answers
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.pairs import nll_of_better, of_pairs, preference_metrics
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Pairs, Params


@schema
class OrpoConfig:
    """Odds-ratio preference optimisation (arXiv 2403.07691): SFT with a penalty, from a base model."""

    kind: Literal["orpo"] = "orpo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    frozen: ClassVar[Mapping[str, Head]] = {}
    cached: ClassVar[bool] = False
    consumes: ClassVar[type] = Pairs
    odds_weight: float = Field(default=0.1, gt=0.0)
    """λ: weight of the odds ratio beside the likelihood of the better answer."""


def build(config: OrpoConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`."""
    token_scores = models["policy"].token_scores

    def loss(params: Params, batch: Pairs) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """NLL(y_w) − λ log σ(logit p_w − logit p_l), p = exp(mean log-probability of a token) (2403.07691, eq. 6, 7).

        Row of the data: prompt "Who wrote Faust?", chosen "Goethe", rejected "Nobody".  The NLL is of the answer alone,
        nats a token.  Logged rewards are λ log p, logged log-probabilities log p.
        """
        answers = batch.answers
        logp_N = log_probs(token_scores, params["policy"], answers)
        mean_N = per_token(logp_N, answers)
        better_P, worse_P = of_pairs(log_odds(mean_N), batch)
        terms = {
            "nll": nll_of_better(logp_N, tokens_of_answers(answers), batch),
            "odds": mean_of(-jax.nn.log_sigmoid(better_P - worse_P), batch.weight_P),
        }
        return terms, preference_metrics(config.odds_weight * mean_N, mean_N, batch)

    def scores(params: Params, batch: Pairs) -> Array:
        """[N]: λ log p of every slot."""
        return config.odds_weight * per_token(log_probs(token_scores, params["policy"], batch.answers), batch.answers)

    weights = {"nll": 1.0, "odds": config.odds_weight}
    return Algo(consumes=config.consumes, trained=config.trained, weights=weights, loss=loss, scores=scores)


def log_odds(logp: Array) -> Array:
    """log(p / (1 − p)) from log p, exact near p = 1, where it stays finite: p is taken as at most 1 − 1e-6."""
    logp = jnp.minimum(logp, -1e-6)
    return logp - jnp.log(-jnp.expm1(logp))
