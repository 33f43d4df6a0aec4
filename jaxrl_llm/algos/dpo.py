"""Direct preference optimisation and its nearest kin: one loss, and a table of link functions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field, model_validator

from jaxrl_llm.core.answers import frozen_log_probs, log_probs, per_token, tokens_of_answers
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.pairs import nll_of_better, of_pairs, preference_metrics
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Pairs, Params


@schema
class DpoConfig:
    """Preferences without a reward model: the policy's log-probabilities, relative to a reference, are the reward."""

    kind: Literal["dpo"] = "dpo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    consumes: ClassVar[type] = Pairs
    loss: Literal["dpo", "cdpo", "ipo", "ipo_mean", "hinge"] = "dpo"
    """cdpo: some labels are wrong; ipo: as its paper, sums over tokens; ipo_mean: as TRL, means over tokens."""
    beta: float = Field(default=0.1, gt=0.0)
    """How dear it is to leave the reference; of IPO the τ of its paper."""
    label_smoothing: float | None = Field(default=None, gt=0.0, lt=0.5)
    """ε of cdpo: the share of pairs that are the wrong way round; null is 0.1.  The others have none."""
    nll_weight: float = Field(default=0.0, ge=0.0)
    """Weight of −log p of the better answers, nats a token, which keeps them likely (arXiv 2404.19733)."""
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

    @model_validator(mode="after")
    def _fits(self) -> "DpoConfig":
        if self.label_smoothing is not None and self.loss != "cdpo":
            raise ValueError(
                f"label_smoothing is of loss=cdpo, and this is {self.loss}: leave it out, or set loss=cdpo"
            )
        return self


def _dpo(delta: Array, beta: float, epsilon: float) -> Array:
    """−log σ(β Δ) (arXiv 2305.18290, eq. 7)."""
    return -jax.nn.log_sigmoid(beta * delta)


def _cdpo(delta: Array, beta: float, epsilon: float) -> Array:
    """−(1 − ε) log σ(β Δ) − ε log σ(−β Δ) (Mitchell, A note on DPO with noisy preferences, 2023)."""
    return -(1 - epsilon) * jax.nn.log_sigmoid(beta * delta) - epsilon * jax.nn.log_sigmoid(-beta * delta)


def _ipo(delta: Array, beta: float, epsilon: float) -> Array:
    """(Δ − 1/(2β))² (arXiv 2310.12036, eq. 17)."""
    return jnp.square(delta - 1 / (2 * beta))


def _hinge(delta: Array, beta: float, epsilon: float) -> Array:
    """max(0, 1 − β Δ) (SLiC, arXiv 2305.10425, as 2309.06657 has it)."""
    return jax.nn.relu(1 - beta * delta)


LINKS: Mapping[str, Callable[[Array, float, float], Array]] = {
    "dpo": _dpo,
    "cdpo": _cdpo,
    "ipo": _ipo,
    "ipo_mean": _ipo,  # of log-ratios that are means over tokens
    "hinge": _hinge,
}


def build(config: DpoConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["policy"]`, and `models["ref"]` where the reference is run in the step."""
    policy_scores, link = models["policy"].token_scores, LINKS[config.loss]
    epsilon = 0.1 if config.label_smoothing is None else config.label_smoothing

    def loss(params: Params, batch: Pairs) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """link(Δ) + α·NLL(y_w), Δ = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)), nats.

        Row of the data: prompt "Who wrote Faust?", chosen "Goethe", rejected "Nobody".  Log-probabilities are sums over
        an answer's tokens, its end token included; of ipo_mean, means.  While π is π_ref, dpo and cdpo lose ln 2, ipo
        1/(4β²), hinge 1.
        """
        answers = batch.answers
        assert answers.ref_BA is not None, "prepare or the cache fills it"
        logp_N = log_probs(policy_scores, params["policy"], answers)
        ratio_N = logp_N - answers.ref_BA.reshape(-1)
        better_P, worse_P = of_pairs(per_token(ratio_N, answers) if config.loss == "ipo_mean" else ratio_N, batch)
        terms: dict[str, Mean] = {config.loss: mean_of(link(better_P - worse_P, config.beta, epsilon), batch.weight_P)}
        if config.nll_weight:
            terms["nll"] = nll_of_better(logp_N, tokens_of_answers(answers), batch)
        return terms, preference_metrics(config.beta * ratio_N, logp_N, batch)

    def scores(params: Params, batch: Pairs) -> Array:
        """[N]: the implicit reward β (log π − log π_ref) of every slot."""
        assert batch.answers.ref_BA is not None, "prepare or the cache fills it"
        logp_N = log_probs(policy_scores, params["policy"], batch.answers)
        return config.beta * (logp_N - batch.answers.ref_BA.reshape(-1))

    def prepare(params: Params, batch: Pairs) -> Pairs:
        """The batch [M, ...] with the reference's log-probabilities."""
        ref_MBA = frozen_log_probs(models["ref"].token_scores, params["ref"], batch.answers)
        return replace(batch, answers=replace(batch.answers, ref_BA=ref_MBA))

    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        frozen=config.frozen,
        weights={config.loss: 1.0, **({"nll": config.nll_weight} if config.nll_weight else {})},
        loss=loss,
        prepare=prepare if config.frozen else None,
        scores=scores,
    )
