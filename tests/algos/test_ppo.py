"""PPO against plain loops, and what it must keep with a real model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.ppo import PpoConfig, build, explained_variance
from tests.algos.lookup import divided
from tests.algos.rollouts import (
    ENDED,
    IS_TOKEN,
    KL_COEF,
    MODELS,
    NEW,
    OLD,
    SCORE,
    answers,
    by_place,
    flat,
    objective,
    prepared,
    rollout,
)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip": 0.4},
    {"dual_clip": 1.5},
    {"ratio_clamp": 0.2},
    {"value_clip": 0.05},
    {"value_clip": None},
    {"value_weight": 0.5},
    {"gamma": 0.8},
    {"lam": 0.5},
    {"whiten_rewards": "keep_mean"},
    {"whiten_rewards": "full"},
    {"whiten_advantages": False},
    {"old_logp": "sampler"},
    {"entropy_bonus": 0.02},
    {"ptx_weight": 0.5},
    {"surrogate": "kl_penalty"},
    {"temperature": 0.7},
]


def algo_of(temperature: float = 1.0, **options: Any) -> Any:
    return build(PpoConfig(**options), MODELS, temperature)


def white(rows: list[np.ndarray], keep_mean: bool = False) -> list[np.ndarray]:
    x = flat(rows)
    return [(row - x.mean()) / np.sqrt(x.var() + 1e-8) + keep_mean * x.mean() for row in rows]


def looped(temperature: float = 1.0, **options: Any) -> dict[str, Any]:
    """All of PPO in double precision, answer by answer, from the tables OLD to a loss at NEW."""
    c = PpoConfig(**options)
    ref = answers(by_place(OLD["ref"]) / temperature)
    trainer, sampler = answers(by_place(OLD["policy"]) / temperature), answers(by_place(OLD["policy"]) + 0.125)
    old = sampler if c.old_logp == "sampler" else trainer
    value = answers(by_place(OLD["value"]))
    k1 = [a - b for a, b in zip(old, ref, strict=True)]
    reward = [-KL_COEF * x for x in k1]
    for row, score in zip(reward, SCORE[:-1], strict=True):
        row[-1] += score
    if c.whiten_rewards != "none":
        reward = white(reward, keep_mean=c.whiten_rewards == "keep_mean")
    advantage, returns = [], []
    for r, v in zip(reward, value, strict=True):
        a, later = np.zeros(len(r)), 0.0
        for t in reversed(range(len(r))):
            later = r[t] + c.gamma * (v[t + 1] if t + 1 < len(r) else 0.0) - v[t] + c.gamma * c.lam * later
            a[t] = later
        advantage.append(a)
        returns.append(a + v)
    used = flat(white(advantage) if c.whiten_advantages else advantage)
    log_ratio = flat(answers(by_place(NEW["policy"]) / temperature)) - flat(old)
    log_ratio = np.clip(log_ratio, -c.ratio_clamp, c.ratio_clamp)
    ratio = np.exp(log_ratio)
    unclipped, cut = -used * ratio, -used * np.clip(ratio, 1 - c.clip, 1 + c.clip)
    policy = np.maximum(unclipped, cut)
    if c.dual_clip is not None:
        policy = np.where(used < 0, np.minimum(policy, -c.dual_clip * used), policy)
    if c.surrogate == "kl_penalty":
        policy = unclipped + 0.4 * (ratio - 1 - log_ratio)
    now, v_old, ret = flat(answers(by_place(NEW["value"]))), flat(value), flat(returns)
    error = (now - ret) ** 2
    if c.value_clip is not None:
        error = np.maximum(error, (np.clip(now, v_old - c.value_clip, v_old + c.value_clip) - ret) ** 2)
    entropy = -2 * flat(answers(by_place(NEW["policy"]))).mean() / temperature
    nll = -np.asarray(NEW["policy"])[[1, 2, 3]].mean()
    total = policy.mean() + c.value_weight * error.mean() / 2 - c.entropy_bonus * entropy + c.ptx_weight * nll
    metrics = {
        "policy_loss": policy.mean(),
        "value_loss": error.mean() / 2,
        "entropy": entropy,
        "ratio": ratio.mean(),
        "approx_kl": -log_ratio.mean(),
        "approx_kl_k3": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": (cut > unclipped).mean(),
        "explained_variance": 1 - np.var(ret - v_old) / np.var(ret),
        "kl": np.mean([x.sum() for x in k1]),
        "kl_k3": np.mean([(np.exp(-x) - 1 + x).sum() for x in k1]),
        "score": SCORE[:-1].mean(),
        "score_std": SCORE[:-1].std(),
        "length": np.mean([len(x) for x in k1]),
        "ended": ENDED[:-1].mean(),
        "sampler_logp_diff": np.abs(flat(old) - flat(sampler)).mean(),
        "advantage_mean": flat(advantage).mean(),
        "advantage_std": flat(advantage).std(),
    }
    return {"loss": total, "advantage": used, "return": ret, "old": flat(old), "metrics": metrics}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_a_loop(options: dict[str, Any]) -> None:
    algo, expected = algo_of(**options), looped(**options)
    batch = prepared(algo)
    assert not options or abs(expected["loss"] - looped()["loss"]) > 1e-3, "what an option does must be seen here"
    for name, array in (("advantage", batch.advantage_BT), ("return", batch.return_BT), ("old", batch.logp_BT)):
        assert array.dtype == jnp.float32  # type: ignore[union-attr]
        np.testing.assert_allclose(np.asarray(array)[IS_TOKEN], expected[name], rtol=2e-5, atol=2e-6, err_msg=name)
        assert not np.asarray(array)[~IS_TOKEN].any()
    assert float(objective(algo, NEW, batch)) == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_metrics(temperature: float) -> None:
    algo = algo_of(temperature)
    expected = looped(temperature)["metrics"]
    assert divided(algo.loss(NEW, prepared(algo))[1]) == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert 0.2 < expected["clip_fraction"] < 0.8
    algo = algo_of(ptx_weight=0.5, surrogate="kl_penalty")
    extra = divided(algo.loss(NEW, prepared(algo))[1])
    assert extra["ptx_nll"] == pytest.approx(-float(NEW["policy"][1:4].mean()), rel=1e-6)
    assert "clip_fraction" not in extra


def test_statistics_are_those_of_the_whole_rollout_in_every_mini_batch() -> None:
    algo = algo_of()
    whole = divided(algo.loss(OLD, prepared(algo))[1])
    cut = jax.tree.map(lambda x: x.reshape(3, -1, *x.shape[2:]), rollout().replace(pretrain=None))  # type: ignore[attr-defined]
    ready = algo.prepare(OLD, cut)
    for row in range(3):
        found = divided(algo.loss(OLD, jax.tree.map(lambda x, row=row: x[row], ready))[1])
        for name in ("kl", "kl_k3", "score_std", "length", "advantage_std", "explained_variance"):
            assert found[name] == pytest.approx(whole[name], rel=1e-5), name


def test_gradients_reach_the_answers_tokens_alone() -> None:
    """Neither padding, nor the reference, nor, through advantages and returns, what `prepare` reads."""
    algo = algo_of(entropy_bonus=0.1, value_clip=None)

    def through(params: Any) -> jax.Array:
        return objective(algo, params, jax.tree.map(lambda x: x[0], algo.prepare(params, rollout())))

    grads = jax.grad(through)(OLD)
    same = jax.grad(lambda params: objective(algo, params, prepared(algo)))(OLD)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, same)
    assert not grads["ref"].any()
    for role in ("policy", "value"):
        assert grads[role][0] == 0.0
        assert grads[role][1:].all()


def test_explained_variance() -> None:
    returns, weights = jnp.asarray([1.0, 2.0, 3.0, 50.0]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    assert float(explained_variance(returns + 5, returns, weights)) == pytest.approx(1.0)
    assert float(explained_variance(jnp.zeros(4), returns, weights)) == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(explained_variance(returns, jnp.ones(4), weights))


def test_dual_clip_with_a_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate=clip"):
        PpoConfig(dual_clip=3.0, surrogate="kl_penalty")
