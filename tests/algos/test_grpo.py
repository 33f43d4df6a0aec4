"""GRPO against plain loops."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.algos.grpo import GrpoConfig, build
from tests.algos.lookup import divided
from tests.algos.rollouts import GROUP, KL_COEF, MODELS, NEW, OLD, SCORE, answers, by_place, objective, prepared

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip": 0.4},
    {"ratio_clamp": 0.2},
    {"divide_by_std": False},
    {"mean": "tokens"},
    {"kl": "reward"},
    {"kl": "none"},
    {"old_logp": "sampler"},
    {"temperature": 0.7},
]


def algo_of(temperature: float = 1.0, **options: Any) -> Any:
    config = GrpoConfig(**options)
    return build(config, {role: MODELS[role] for role in ("policy", *config.frozen)}, temperature)


def looped(temperature: float = 1.0, **options: Any) -> tuple[float, list[float]]:
    """The loss at NEW of what OLD wrote, and the advantage of each answer, in double precision."""
    c = GrpoConfig(**options)
    tables = (OLD["policy"], OLD["ref"], NEW["policy"])
    old, ref, now = ([x / temperature for x in answers(by_place(table))] for table in tables)
    if c.old_logp == "sampler":
        old = answers(by_place(OLD["policy"]) + 0.125)
    reward = SCORE[:-1].astype(float)
    if c.kl == "reward":
        reward = reward - KL_COEF * np.asarray([(a - b).sum() for a, b in zip(old, ref, strict=True)])
    advantages, losses, costs = [], [], []
    for b in range(5):
        group = reward[np.asarray(GROUP[:-1]) == GROUP[b]]
        a = reward[b] - group.mean()
        a = a / (group.std(ddof=1) + 1e-4) if c.divide_by_std else a
        log_ratio = np.clip(now[b] - old[b], -c.ratio_clamp, c.ratio_clamp)
        ratio = np.exp(log_ratio)
        losses.append(np.maximum(-a * ratio, -a * np.clip(ratio, 1 - c.clip, 1 + c.clip)))
        costs.append(KL_COEF * (np.exp(ref[b] - now[b]) - 1 - (ref[b] - now[b])))
        advantages.append(a)
    rows = [x + y if c.kl == "loss" else x for x, y in zip(losses, costs, strict=True)]
    loss = np.concatenate(rows).mean() if c.mean == "tokens" else np.mean([row.mean() for row in rows])
    return float(loss), advantages


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_a_loop(options: dict[str, Any]) -> None:
    algo, (loss, advantages) = algo_of(**options), looped(**options)
    assert not options or abs(loss - looped()[0]) > 1e-3, "what an option does must be seen here"
    batch = prepared(algo)
    expected = by_place(np.repeat([0, *advantages], [1, *(len(x) for x in answers(by_place(OLD["ref"])))]))
    np.testing.assert_allclose(batch.advantage_BT, expected, rtol=1e-5, atol=1e-6)
    assert float(objective(algo, NEW, batch)) == pytest.approx(loss, rel=1e-5)


def test_metrics() -> None:
    found = divided(algo_of().loss(NEW, prepared(algo_of()))[1])
    assert found["policy_loss"] + found["kl_loss"] == pytest.approx(looped()[0], rel=1e-5)
    assert 0.2 < found["clip_fraction"] < 0.8
    assert {"ratio", "approx_kl", "entropy", "kl", "kl_k3", "length", "ended", "score", "score_std"} <= found.keys()


def test_without_a_kl_there_is_no_reference() -> None:
    algo = algo_of(kl="none")
    assert algo.frozen == GrpoConfig(kl="none").frozen == {}
    params = {"policy": OLD["policy"]}
    batch = prepared(algo, params=params)
    assert batch.ref_logp_BT is None
    assert not {"kl", "kl_k3", "kl_loss"} & algo.loss(params, batch)[1].keys()
    assert GrpoConfig(kl="reward").frozen == GrpoConfig().frozen == {"ref": "lm"}


def test_gradients_reach_the_answers_tokens_alone() -> None:
    algo = algo_of()
    grads = jax.grad(lambda params: objective(algo, params, prepared(algo, params=params)))(OLD)
    assert not grads["ref"].any()
    assert grads["policy"][0] == 0.0
    assert grads["policy"][1:].all()
