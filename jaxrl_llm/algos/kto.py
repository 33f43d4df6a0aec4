"""KTO: preferences from answers that are wanted or not, one by one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrl_llm.core.answers import frozen_log_probs, log_probs
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.pairs import right
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Answers, Head, Labelled, Mean, Model, Params


@schema
class KtoConfig:
    """Kahneman-Tversky optimisation (arXiv 2402.01306): unpaired answers, measured from a reference point."""

    kind: Literal["kto"] = "kto"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    consumes: ClassVar[type] = Labelled
    beta: float = Field(default=0.1, gt=0.0)
    """How dear it is to leave the reference."""
    desirable_weight: float = Field(default=1.0, gt=0.0)
    """λ_D, of wanted answers.  The paper: λ_D·n_D / (λ_U·n_U) from 1 to 3/2, n being how many there are in the data."""
    undesirable_weight: float = Field(default=1.0, gt=0.0)
    """λ_U, of unwanted ones."""
    reference: Literal["step", "cached"] = "step"
    """step: the reference model is run in every step; cached: it was run once, over all the data, and let go."""

    @property
    def frozen(self) -> Mapping[str, Head]:
        """The reference, where it is run in the step."""
        return {} if self.cached else {"ref": "lm"}

    @property
    def cached(self) -> bool:
        """Whether batches bring the reference's log-probabilities along."""
        return self.reference == "cached"


def build(config: KtoConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`, and `models["ref"]` where the reference is run in the step."""
    policy_scores = models["policy"].token_scores

    def loss(params: Params, batch: Labelled) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """λ_D(1 − σ(β(h − z0))) of wanted answers, λ_U(1 − σ(β(z0 − h))) of unwanted ones (arXiv 2402.01306, eq. 8).

        h = log π − log π_ref, summed over an answer's tokens, nats.  Rows of the data: prompt "Who wrote Faust?",
        answer "Goethe", label 1; the same prompt, answer "Nobody", label 0.
        Metric `kl` is z0, an estimate of KL(π ‖ π_ref) in nats an answer; accuracy counts h on the right side of it.
        """
        answers = batch.answers
        assert answers.ref_BA is not None, "prepare or the cache fills it"
        assert batch.z0 is not None, "prepare fills it"
        label_N = batch.label_BA.reshape(-1)
        wanted_N, unwanted_N = label_N == 1, label_N == 0
        logp_N = log_probs(policy_scores, params["policy"], answers)
        h_N = logp_N - answers.ref_BA.reshape(-1)
        lead_N = jnp.where(wanted_N, h_N - batch.z0, batch.z0 - h_N)
        weight_N = jnp.where(wanted_N, config.desirable_weight, config.undesirable_weight)
        terms = {"kto": mean_of(weight_N * jax.nn.sigmoid(-config.beta * lead_N), label_N >= 0)}
        return terms, {
            "rewards/chosen": mean_of(config.beta * h_N, wanted_N),
            "rewards/rejected": mean_of(config.beta * h_N, unwanted_N),
            "rewards/accuracies": mean_of(right(lead_N), label_N >= 0),
            "logps/chosen": mean_of(logp_N, wanted_N),
            "logps/rejected": mean_of(logp_N, unwanted_N),
            "kl": Mean(batch.z0, jnp.ones(())),
        }

    def scores(params: Params, batch: Labelled) -> Array:
        """[N]: the implicit reward β h of every slot."""
        assert batch.answers.ref_BA is not None, "prepare or the cache fills it"
        logp_N = log_probs(policy_scores, params["policy"], batch.answers)
        return config.beta * (logp_N - batch.answers.ref_BA.reshape(-1))

    def reference(params: Params, answers: Answers) -> Array:
        if config.reference == "step":
            return frozen_log_probs(models["ref"].token_scores, params["ref"], answers)
        assert answers.ref_BA is not None, "the cache fills it"
        return answers.ref_BA

    def prepare(params: Params, batch: Labelled) -> Labelled:
        """The batch [M, ...] with z0 = max(0, mean of h over prompts with answers to others), and the reference."""
        other = batch.mismatched
        assert other is not None, "the source makes it"
        h_MBA = frozen_log_probs(policy_scores, params["policy"], other) - reference(params, other)
        total, count = mean_of(h_MBA, other.segment_BA > 0)
        z0 = jnp.maximum(total / jnp.maximum(count, 1.0), 0.0)
        answers = replace(batch.answers, ref_BA=reference(params, batch.answers))
        return replace(batch, answers=answers, mismatched=None, z0=jnp.broadcast_to(z0, h_MBA.shape[:1]))

    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        frozen=config.frozen,
        weights={"kto": 1.0},
        loss=loss,
        prepare=prepare,
        scores=scores,
        mismatched=True,
    )
