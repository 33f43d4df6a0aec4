"""Proximal policy optimisation for language models: a critic, a clipped policy and a clipped value loss."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array
from pydantic import Field, model_validator

from jaxrl_llm.core import rollouts
from jaxrl_llm.core.advantages import gae, token_rewards
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.surrogate import clipped, distance_metrics, is_clipped, k3_of_ratio, log_ratio
from jaxrl_llm.core.whitening import mean_and_variance, whiten
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Head, Mean, Model, Params, Rollouts, Tokens, TokenScores


@schema
class PpoConfig:
    """PPO (arXiv 1707.06347) on answers with a reward, a KL to a reference in it (1909.08593); derived in docs/ppo.md.

    The weight of that KL, and of the other one that surrogate=kl_penalty has, change from rollout to rollout, so they
    come with the rollouts.
    """

    kind: Literal["ppo"] = "ppo"
    trained: ClassVar[Mapping[str, Head]] = {"policy": "lm", "value": "scalar"}
    frozen: ClassVar[Mapping[str, Head]] = {"ref": "lm"}
    consumes: ClassVar[type] = Rollouts
    cached: ClassVar[bool] = False
    surrogate: Literal["clip", "kl_penalty"] = "clip"
    """clip: nothing is gained by a ratio outside 1 ± clip; kl_penalty: leaving the old policy costs its KL."""
    clip: float = Field(default=0.2, gt=0.0)
    """ε: how far a ratio may leave 1 to the policy's advantage."""
    dual_clip: float | None = Field(default=None, gt=1.0)
    """The most that a token of negative advantage weighs, however likely it became (arXiv 1912.09729: 3)."""
    ratio_clamp: float = Field(default=20.0, gt=0.0)
    """Differences of log-probabilities are clamped to ± this, nats."""
    value_clip: float | None = Field(default=0.2, gt=0.0)
    """ε_v: how far a value may leave the old one to the loss's advantage; null: as far as it likes."""
    value_weight: float = Field(default=0.1, gt=0.0)
    """c_v: the weight of the critic's loss."""
    gamma: float = Field(default=1.0, gt=0.0, le=1.0)
    """γ: what a reward is worth a token earlier."""
    lam: float = Field(default=0.95, ge=0.0, le=1.0)
    """λ: 0 believes the critic, 1 the rewards alone."""
    whiten_rewards: Literal["none", "keep_mean", "full"] = "none"
    """Per-token rewards, KL included, to variance 1; keep_mean as in lm-human-preferences, full to mean 0 as well."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and variance 1 over all tokens of the rollout."""
    old_logp: Literal["trainer", "sampler"] = "trainer"
    """Who says how likely the answers were; the sampler's saves a pass, and ratios do not begin at exactly 1."""
    entropy_bonus: float = Field(default=0.0, ge=0.0)
    """Weight of the mean entropy, nats a token, in what is maximised."""
    ptx_weight: float = Field(default=0.0, ge=0.0)
    """Weight of −log p of pretraining text, nats a token: PPO-ptx (InstructGPT, 2203.02155: 27.8)."""

    @model_validator(mode="after")
    def _fits(self) -> "PpoConfig":
        if self.dual_clip is not None and self.surrogate != "clip":
            raise ValueError("dual_clip is of surrogate=clip, and this is kl_penalty: leave it out, or set clip")
        return self


def build(config: PpoConfig, models: Mapping[str, Model], temperature: float = 1.0) -> Algo:
    """The algorithm over `models` policy, value and ref, on answers that were sampled at this temperature."""

    def scores(params: Params, role: str, tokens: Tokens) -> TokenScores:
        return models[role].token_scores(params[role], tokens, temperature)

    def values(params: Params, tokens: Tokens) -> Array:
        return models["value"].values(params["value"], tokens)["score"]

    def loss(params: Params, batch: Rollouts) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """L_policy + c_v·L_value − c_e·entropy + c_x·NLL of pretraining text, each a mean over tokens, nats.

            L_policy = mean max(−A·ratio, −A·clip(ratio, 1 − ε, 1 + ε))           ratio = exp(log π − log π_old)
                    or mean −A·ratio + β_p (ratio − 1 − log ratio)                with surrogate=kl_penalty
            L_value  = ½ mean max((V − Ret)², (clip(V, V_old ± ε_v) − Ret)²)

        The last estimates KL(π_old ‖ π), as mean(log π_old − log π) does, which fails here: over the very tokens that
        several epochs learn from it becomes negative, and its gradient only makes them likelier.

        Row of the data: prompt "Who wrote Faust?", answer "Goethe", score 0.7, which came with its last token.
        """
        assert batch.logp_BT is not None, "prepare fills it"
        assert batch.advantage_BT is not None, "prepare fills it"
        weights_BT, advantage_BT = batch.tokens.weights_BT, batch.advantage_BT
        said = scores(params, "policy", batch.tokens)
        log_ratio_BT = log_ratio(said.logp_BT, batch.logp_BT, config.ratio_clamp)
        ratio_BT = jnp.exp(log_ratio_BT)
        if config.surrogate == "clip":
            policy_BT = clipped(ratio_BT, advantage_BT, config.clip, config.dual_clip)
        else:
            assert batch.penalty_coef_B is not None, "the source fills it"
            policy_BT = -advantage_BT * ratio_BT + batch.penalty_coef_B[:, None] * k3_of_ratio(log_ratio_BT)
        value_BT = value_loss(values(params, batch.tokens), batch, config.value_clip)
        terms = {
            "policy": mean_of(policy_BT, weights_BT),
            "value": mean_of(value_BT, weights_BT),
            "entropy": mean_of(said.entropy_BT, weights_BT),
        }
        metrics = {"policy_loss": terms["policy"], "value_loss": terms["value"], "entropy": terms["entropy"]}
        metrics |= distance_metrics(log_ratio_BT, weights_BT) | rollouts.logged(batch)
        if config.surrogate == "clip":
            metrics["clip_fraction"] = mean_of(is_clipped(ratio_BT, advantage_BT, config.clip), weights_BT)
        if config.ptx_weight:
            assert batch.pretrain is not None, "the source fills it"
            said_of_text = models["policy"].token_scores(params["policy"], batch.pretrain)
            terms["ptx"] = metrics["ptx_nll"] = mean_of(-said_of_text.logp_BT, batch.pretrain.weights_BT)
        return {name: terms[name] for name in weights}, metrics

    def prepare(params: Params, batch: Rollouts) -> Rollouts:
        """The rollout [M, b, ...] with V, A and Ret of the rewards r_t = −β·k1_t + 1[t = last]·score."""
        policy = None if config.old_logp == "sampler" else lambda tokens: scores(params, "policy", tokens).logp_BT
        batch = rollouts.with_log_probs(batch, policy, lambda tokens: scores(params, "ref", tokens).logp_BT)
        value_BT = rollouts.read(lambda tokens: values(params, tokens), batch.tokens)
        weights_BT = batch.tokens.weights_BT
        reward_BT = token_rewards(batch.score_B, rollouts.k1_of(batch), batch.kl_coef_B, weights_BT)
        if config.whiten_rewards != "none":
            reward_BT = whiten(reward_BT, weights_BT, keep_mean=config.whiten_rewards == "keep_mean")
        advantage_BT, return_BT = gae(reward_BT, value_BT, weights_BT, config.gamma, config.lam)
        found = rollouts.describe(batch, advantage_BT)
        found["explained_variance"] = explained_variance(value_BT, return_BT, weights_BT)
        if config.whiten_advantages:
            advantage_BT = whiten(advantage_BT, weights_BT)
        batch = replace(batch, value_BT=value_BT, advantage_BT=advantage_BT, return_BT=return_BT)
        return rollouts.with_statistics(batch, found)

    optional = {"entropy": -config.entropy_bonus, "ptx": config.ptx_weight}
    weights = {"policy": 1.0, "value": config.value_weight} | {name: c for name, c in optional.items() if c}
    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        frozen=config.frozen,
        weights=weights,
        loss=loss,
        prepare=prepare,
        penalised=config.surrogate == "kl_penalty",
    )


def value_loss(value_BT: Array, batch: Rollouts, clip: float | None) -> Array:
    """[B, T]: ½ max((V − Ret)², (clip(V, V_old ± ε_v) − Ret)²), or without the clip ½ (V − Ret)²."""
    assert batch.value_BT is not None, "prepare fills it"
    assert batch.return_BT is not None, "prepare fills it"
    error_BT = jnp.square(value_BT - batch.return_BT)
    if clip is not None:
        near_BT = jnp.clip(value_BT, batch.value_BT - clip, batch.value_BT + clip)
        error_BT = jnp.maximum(error_BT, jnp.square(near_BT - batch.return_BT))
    return 0.5 * error_BT


def explained_variance(value_BT: Array, return_BT: Array, weights_BT: Array) -> Array:
    """1 − Var(Ret − V)/Var(Ret), a scalar: 1 a perfect critic, 0 none; NaN where all returns are the same."""
    _, variance = mean_and_variance(return_BT, weights_BT)
    _, missed = mean_and_variance(return_BT - value_BT, weights_BT)
    return jnp.where(variance > 0, 1.0 - missed / variance, jnp.nan)
