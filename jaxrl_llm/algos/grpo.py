"""Group relative policy optimisation: the other answers to a prompt are the baseline, there is no critic."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrl_llm.core import rollouts
from jaxrl_llm.core.advantages import group_relative
from jaxrl_llm.core.kl import k3
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.surrogate import clipped, distance_metrics, is_clipped, log_ratio
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Params, Rollouts, Tokens, TokenScores


@schema
class GrpoConfig:
    """GRPO (DeepSeekMath, arXiv 2402.03300): several answers a prompt, each measured by its group."""

    kind: Literal["grpo"] = "grpo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm"}
    consumes: ClassVar[type] = Rollouts
    cached: ClassVar[bool] = False
    clip: float = Field(default=0.2, gt=0.0)
    """ε: how far a token's ratio may leave 1 to the policy's advantage."""
    ratio_clamp: float = Field(default=20.0, gt=0.0)
    """Differences of log-probabilities are clamped to ± this, nats."""
    divide_by_std: bool = True
    """Advantages over the group's standard deviation; without it no prompt weighs more for being hard (2503.20783)."""
    mean: Literal["answers", "tokens"] = "answers"
    """answers: over an answer's tokens and then over answers; tokens: over all tokens alike (arXiv 2503.14476)."""
    kl: Literal["loss", "reward", "none"] = "loss"
    """loss: k3 of the policy as it is, in the loss; reward: k1 of the policy that wrote, off the score; none: no
    reference."""
    old_logp: Literal["trainer", "sampler"] = "trainer"
    """Who says how likely the answers were; the sampler's saves a pass, and ratios do not begin at exactly 1."""

    @property
    def frozen(self) -> Mapping[str, Head]:
        """The reference, where there is one."""
        return {} if self.kl == "none" else {"ref": "lm"}


def build(config: GrpoConfig, models: Mapping[str, Model], temperature: float = 1.0) -> Algo:
    """The algorithm over `models["policy"]`, and `models["ref"]`, on answers that were sampled at this temperature."""

    def scores(params: Params, role: str, tokens: Tokens) -> TokenScores:
        return models[role].token_scores(params[role], tokens, temperature)

    def mean(x_BT: Array, weights_BT: Array) -> Mean:
        if config.mean == "tokens":
            return mean_of(x_BT, weights_BT)
        return mean_of(rollouts.mean_over_answer(x_BT, weights_BT), rollouts.has_answer(weights_BT))

    def loss(params: Params, batch: Rollouts) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """mean max(−A·ratio, −A·clip(ratio, 1 ± ε)) + mean β·k3 (arXiv 2402.03300, eq. 3 and 4).

        Rows of the data: prompt "2 + 2 =", answers "4" and "5", scores 1 and 0, which are one group: A is ±.707.
        """
        assert batch.logp_BT is not None, "prepare fills it"
        assert batch.advantage_BT is not None, "prepare fills it"
        weights_BT, advantage_BT = batch.tokens.weights_BT, batch.advantage_BT
        said = scores(params, "policy", batch.tokens)
        log_ratio_BT = log_ratio(said.logp_BT, batch.logp_BT, config.ratio_clamp)
        ratio_BT = jnp.exp(log_ratio_BT)
        terms = {"policy": mean(clipped(ratio_BT, advantage_BT, config.clip), weights_BT)}
        metrics = {"policy_loss": terms["policy"], "entropy": mean_of(said.entropy_BT, weights_BT)}
        metrics |= distance_metrics(log_ratio_BT, weights_BT) | rollouts.logged(batch)
        metrics["clip_fraction"] = mean_of(is_clipped(ratio_BT, advantage_BT, config.clip), weights_BT)
        if config.kl == "loss":
            assert batch.ref_logp_BT is not None, "prepare fills it"
            cost_BT = batch.kl_coef_B[:, None] * k3(said.logp_BT, batch.ref_logp_BT)
            terms["kl"] = metrics["kl_loss"] = mean(cost_BT, weights_BT)
        return terms, metrics

    def prepare(params: Params, batch: Rollouts) -> Rollouts:
        """The rollout [M, b, ...] with A = (R − mean of the group)/(std + 1e-4) at each of an answer's tokens."""
        policy = None if config.old_logp == "sampler" else lambda tokens: scores(params, "policy", tokens).logp_BT
        ref = None if config.kl == "none" else lambda tokens: scores(params, "ref", tokens).logp_BT
        batch = rollouts.with_log_probs(batch, policy, ref)
        reward_B = rollouts.score_less_kl(batch) if config.kl == "reward" else batch.score_B
        is_answer_B = rollouts.has_answer(batch.tokens.weights_BT)
        return rollouts.with_advantages(
            batch, group_relative(reward_B, batch.group_B, is_answer_B, config.divide_by_std)
        )

    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        frozen=config.frozen,
        weights={"policy": 1.0, **({"kl": 1.0} if config.kl == "loss" else {})},
        loss=loss,
        prepare=prepare,
    )
