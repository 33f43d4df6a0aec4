"""What PPO, GRPO and RLOO must keep alike, with a real model and with tables."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos import grpo, ppo, rloo
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.types import Algo, Mean, Rollouts
from tests.algos.lookup import divided
from tests.algos.rollouts import MODELS, NEW, OLD, WEIGHTS, objective, rollout

CONFIGS: dict[str, tuple[Any, Any]] = {
    "ppo": (ppo, ppo.PpoConfig(entropy_bonus=0.01)),
    "grpo": (grpo, grpo.GrpoConfig()),
    "rloo": (rloo, rloo.RlooConfig(clip=0.2)),
}
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def real() -> tuple[dict[str, Any], dict[str, Any]]:
    """Models and weights by role: the policy is its own reference, the critic a smaller model."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    sizes = {"vocab_size": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    policy = build_model(LlamaConfig(d_model=16, d_ff=16, **sizes), ComputeConfig(loss_chunks=1), mesh)
    value = build_model(LlamaConfig(d_model=8, d_ff=8, **sizes), ComputeConfig(loss_chunks=1), mesh, head="scalar")
    weights = policy.init(jax.random.key(0))
    models = {"policy": policy, "ref": policy, "value": value}
    return models, {"policy": weights, "ref": weights, "value": value.init(jax.random.key(1))}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_mini_batch_and_a_later_one(name: str, real: tuple[dict, dict]) -> None:
    module, config = CONFIGS[name]
    models, params = real
    algo: Algo = module.build(config, models, TEMPERATURE)
    batch: Rollouts = jax.tree.map(lambda x: x[0], jax.jit(algo.prepare)(params, rollout()))  # type: ignore[arg-type]
    step = jax.jit(
        lambda params, batch: (algo.loss(params, batch)[1], jax.grad(objective, argnums=1)(algo, params, batch))
    )
    metrics, grads = step(params, batch)
    first = divided(metrics)
    assert abs(first["ratio"] - 1) < 1e-5
    assert abs(first["approx_kl"]) < 1e-5
    assert (first["kl"], first["kl_k3"], first["clip_fraction"]) == (0.0, 0.0, 0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))

    moved = params | {role: jax.tree.map(lambda w, g: w - 3 * g, params[role], grads[role]) for role in algo.trained}
    later = divided(step(moved, batch)[0])
    assert abs(later["ratio"] - 1) > 1e-3
    assert later["clip_fraction"] > 0
    assert later["approx_kl_k3"] > 1e-4
    assert later["kl"] == 0.0  # of the rollout, which was written before

    again = jax.jit(algo.prepare)(moved, rollout())  # type: ignore[arg-type]
    found = {k: float(x.mean()) for k, x in again.statistics.items()}
    assert found["kl"] != 0.0
    assert found["kl_k3"] > 0.0


@pytest.mark.parametrize("name", CONFIGS)
def test_old_log_probs_are_the_trainers(name: str, real: tuple[dict, dict]) -> None:
    """At the temperature of the sampler, of the reference as well; what the sampler said is only compared."""
    module, config = CONFIGS[name]
    models, params = real
    batch = rollout()
    ready = jax.jit(module.build(config, models, TEMPERATURE).prepare)(params, batch)
    logits = models["policy"].logits(params["policy"], batch.tokens.inputs_BT[0]) / TEMPERATURE
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.tokens.targets_BT[0][..., None], axis=-1)[..., 0]
    for found in (ready.logp_BT, ready.ref_logp_BT):
        np.testing.assert_allclose(found[0], np.where(WEIGHTS > 0, logp, 0), rtol=1e-5, atol=1e-6)
    expected = np.abs(logp - batch.sampler_logp_BT[0])[WEIGHTS > 0].mean()
    np.testing.assert_allclose(ready.statistics["sampler_logp_diff"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_micro_batches_add_up_to_the_whole(name: str) -> None:
    """Totals and counts of terms and metrics; counts are those of the batch, whatever the params."""
    module, config = CONFIGS[name]
    algo: Algo = module.build(config, MODELS)
    ready = algo.prepare(OLD, rollout()).replace(pretrain=None)  # type: ignore[misc]

    def means(rows: Any, params: Any = NEW) -> list[Mean]:
        terms, metrics = algo.loss(params, rows)
        return [*terms.values(), *metrics.values()]

    whole = means(jax.tree.map(lambda x: x[0], ready))
    parts = [means(jax.tree.map(lambda x, i=i: x[0, 2 * i : 2 * i + 2], ready)) for i in range(3)]
    for one, *cut in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(sum(x.total for x in cut), one.total, rtol=1e-5, atol=1e-6)
        assert float(sum(x.count for x in cut)) == float(one.count)
    other = means(jax.tree.map(lambda x: x[0], ready), OLD)
    assert [float(x.count) for x in other] == [float(x.count) for x in whole]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_without_an_answer_changes_nothing(name: str) -> None:
    """What fills a rollout up has a score and a group, too."""
    module, config = CONFIGS[name]
    algo: Algo = module.build(config, MODELS)
    with_it = algo.prepare(OLD, rollout())  # type: ignore[misc]
    without = algo.prepare(OLD, jax.tree.map(lambda x: x[:, :5], rollout().replace(pretrain=None)))  # type: ignore[misc, attr-defined]
    np.testing.assert_allclose(with_it.advantage_BT[:, :5], without.advantage_BT, rtol=1e-6)
    for key, x in without.statistics.items():
        np.testing.assert_allclose(with_it.statistics[key][:, :5], x, rtol=1e-6, atol=1e-6, err_msg=key)
    losses = [objective(algo, NEW, jax.tree.map(lambda x: x[0], batch)) for batch in (with_it, without)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_fractions_of_a_score_survive(name: str) -> None:
    """All scores lie between 0 and 1: cast to an integer, there would be nothing to learn."""
    module, config = CONFIGS[name]
    algo: Algo = module.build(config, MODELS)
    batch = rollout()
    ready = algo.prepare(OLD, batch.replace(score_B=jnp.asarray([[0.1, 0.9, 0.4, 0.3, 0.2, 0.0]])))  # type: ignore[misc, attr-defined]
    none = algo.prepare(OLD, batch.replace(score_B=jnp.zeros((1, 6))))  # type: ignore[misc, attr-defined]
    assert ready.advantage_BT.dtype == jnp.float32
    assert np.abs(ready.advantage_BT - none.advantage_BT).max() > 0.1
