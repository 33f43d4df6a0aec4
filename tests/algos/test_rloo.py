"""RLOO against plain loops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.rloo import RlooConfig, build
from tests.algos.lookup import divided
from tests.algos.rollouts import GROUP, KL_COEF, MODELS, NEW, OLD, SCORE, answers, by_place, objective, prepared

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip": 0.2},
    {"ratio_clamp": 0.2},
    {"kl": "loss"},
    {"kl": "none"},
    {"old_logp": "sampler"},
    {"temperature": 0.7},
]


def algo_of(temperature: float = 1.0, **options: Any) -> Any:
    config = RlooConfig(**options)
    return build(config, {role: MODELS[role] for role in ("policy", *config.frozen)}, temperature)


def looped(temperature: float = 1.0, **options: Any) -> tuple[float, np.ndarray]:
    """The loss at NEW of what OLD wrote, and the advantage of each answer, in double precision."""
    c = RlooConfig(**options)
    tables = (OLD["policy"], OLD["ref"], NEW["policy"])
    old, ref, now = ([x / temperature for x in answers(by_place(table))] for table in tables)
    if c.old_logp == "sampler":
        old = answers(by_place(OLD["policy"]) + 0.125)
    reward = SCORE[:-1].astype(float)
    if c.kl == "reward":
        reward = reward - KL_COEF * np.asarray([(a - b).sum() for a, b in zip(old, ref, strict=True)])
    advantages, losses = [], []
    for b in range(5):
        others = [reward[i] for i in range(5) if GROUP[i] == GROUP[b] and i != b]
        a = reward[b] - np.mean(others)
        ratio = np.exp(np.clip((now[b] - old[b]).sum(), -c.ratio_clamp, c.ratio_clamp))
        loss = -a * ratio if c.clip is None else max(-a * ratio, -a * np.clip(ratio, 1 - c.clip, 1 + c.clip))
        if c.kl == "loss":
            loss += KL_COEF * (np.exp(ref[b] - now[b]) - 1 - (ref[b] - now[b])).sum()
        advantages.append(a)
        losses.append(loss)
    return float(np.mean(losses)), np.asarray(advantages)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_a_loop(options: dict[str, Any]) -> None:
    algo, (loss, advantages) = algo_of(**options), looped(**options)
    assert not options or abs(loss - looped()[0]) > 1e-3, "what an option does must be seen here"
    batch = prepared(algo)
    expected = by_place(np.repeat([0, *advantages], [1, *(len(x) for x in answers(by_place(OLD["ref"])))]))
    np.testing.assert_allclose(batch.advantage_BT, expected, rtol=1e-5, atol=1e-6)
    assert float(objective(algo, NEW, batch)) == pytest.approx(loss, rel=1e-5)


def test_the_gradient_of_the_first_update_is_reinforce() -> None:
    """−A ∇log π(y), averaged over answers: all tokens of an answer pull alike."""
    algo, (_, advantages) = algo_of(), looped()
    grads = jax.grad(lambda params: objective(algo, params, prepared(algo)))(OLD)
    lengths = [len(x) for x in answers(by_place(OLD["ref"]))]
    np.testing.assert_allclose(grads["policy"], np.repeat([0, *(-advantages / 5)], [1, *lengths]), rtol=1e-5)
    assert not grads["ref"].any()


def test_metrics() -> None:
    algo = algo_of(kl="loss", clip=0.2)
    found = divided(algo.loss(NEW, prepared(algo))[1])
    assert found["policy_loss"] + found["kl_loss"] == pytest.approx(looped(kl="loss", clip=0.2)[0], rel=1e-5)
    assert 0 < found["clip_fraction"] < 1
    assert "clip_fraction" not in algo_of().loss(NEW, prepared(algo_of()))[1]


def test_without_a_kl_there_is_no_reference() -> None:
    algo = algo_of(kl="none")
    assert algo.frozen == RlooConfig(kl="none").frozen == {}
    batch = prepared(algo, params={"policy": OLD["policy"]})
    assert batch.ref_logp_BT is None
    assert RlooConfig(kl="loss").frozen == RlooConfig().frozen == {"ref": "lm"}


def test_an_answer_alone_in_its_group_teaches_nothing() -> None:
    algo = algo_of()
    batch = jax.tree.map(lambda x: x[None], prepared(algo))
    alone = prepared(algo, batch.replace(group_B=jnp.arange(6)[None]))
    assert not alone.advantage_BT.any()  # type: ignore[union-attr]
