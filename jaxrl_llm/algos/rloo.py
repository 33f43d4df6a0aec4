"""REINFORCE leave-one-out: a whole answer is one action, the mean of the others is its baseline, there is no critic."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from pydantic import Field

from jaxrl_llm.core import rollouts
from jaxrl_llm.core.advantages import leave_one_out
from jaxrl_llm.core.kl import k3
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.surrogate import clipped, distance_metrics, is_clipped, log_ratio
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Params, Rollouts, Tokens, TokenScores


@schema
class RlooConfig:
    """RLOO (Back to basics, arXiv 2402.14740): several answers a prompt, each measured by the others."""

    kind: Literal["rloo"] = "rloo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    consumes: ClassVar[type] = Rollouts
    cached: ClassVar[bool] = False
    clip: float | None = Field(default=None, gt=0.0)
    """ε: how far an answer's ratio may leave 1 to the policy's advantage; null: as far as it likes, which is the
    paper's choice, and fits one update a rollout."""
    ratio_clamp: float = Field(default=20.0, gt=0.0)
    """Differences of an answer's log-probabilities are clamped to ± this, nats."""
    kl: Literal["loss", "reward", "none"] = "reward"
    """reward: k1 of the policy that wrote, off the score; loss: k3 of the policy as it is, in the loss; none: no
    reference."""
    old_logp: Literal["trainer", "sampler"] = "trainer"
    """Who says how likely the answers were; the sampler's saves a pass, and ratios do not begin at exactly 1."""

    @property
    def frozen(self) -> Mapping[str, Head]:
        """The reference, where there is one."""
        return {} if self.kl == "none" else {"ref": "lm"}


def build(config: RlooConfig, models: Mapping[str, Model], temperature: float = 1.0) -> Algo:
    """The algorithm over `models["policy"]`, and `models["ref"]`, on answers that were sampled at this temperature."""

    def scores(params: Params, role: str, tokens: Tokens) -> TokenScores:
        return models[role].token_scores(params[role], tokens, temperature)

    def loss(params: Params, batch: Rollouts) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """−mean over answers of A·π(y)/π_old(y), whose gradient at π = π_old is REINFORCE's A ∇log π(y) (section 3).

        Rows of the data: prompt "2 + 2 =", answers "4" and "5", scores 1 and 0, which are one group: A is ±1.
        """
        assert batch.logp_BT is not None, "prepare fills it"
        assert batch.advantage_BT is not None, "prepare fills it"
        weights_BT = batch.tokens.weights_BT
        is_answer_B = rollouts.has_answer(weights_BT)
        said = scores(params, "policy", batch.tokens)
        logp_B, old_logp_B = (rollouts.sum_over_answer(x_BT, weights_BT) for x_BT in (said.logp_BT, batch.logp_BT))
        log_ratio_B = log_ratio(logp_B, old_logp_B, config.ratio_clamp)
        ratio_B, advantage_B = jnp.exp(log_ratio_B), rollouts.mean_over_answer(batch.advantage_BT, weights_BT)
        policy_B = -advantage_B * ratio_B if config.clip is None else clipped(ratio_B, advantage_B, config.clip)
        terms = {"policy": mean_of(policy_B, is_answer_B)}
        metrics = {"policy_loss": terms["policy"], "entropy": mean_of(said.entropy_BT, weights_BT)}
        metrics |= distance_metrics(log_ratio_B, is_answer_B) | rollouts.logged(batch)
        if config.clip is not None:
            metrics["clip_fraction"] = mean_of(is_clipped(ratio_B, advantage_B, config.clip), is_answer_B)
        if config.kl == "loss":
            assert batch.ref_logp_BT is not None, "prepare fills it"
            k3_B = rollouts.sum_over_answer(k3(said.logp_BT, batch.ref_logp_BT), weights_BT)
            terms["kl"] = metrics["kl_loss"] = mean_of(batch.kl_coef_B * k3_B, is_answer_B)
        return terms, metrics

    def prepare(params: Params, batch: Rollouts) -> Rollouts:
        """The rollout [M, b, ...] with A = R − mean of the group's other answers."""
        policy = None if config.old_logp == "sampler" else lambda tokens: scores(params, "policy", tokens).logp_BT
        ref = None if config.kl == "none" else lambda tokens: scores(params, "ref", tokens).logp_BT
        batch = rollouts.with_log_probs(batch, policy, ref)
        reward_B = rollouts.score_less_kl(batch) if config.kl == "reward" else batch.score_B
        is_answer_B = rollouts.has_answer(batch.tokens.weights_BT)
        return rollouts.with_advantages(batch, leave_one_out(reward_B, batch.group_B, is_answer_B))

    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        frozen=config.frozen,
        weights={"policy": 1.0, **({"kl": 1.0} if config.kl == "loss" else {})},
        loss=loss,
        prepare=prepare,
    )
