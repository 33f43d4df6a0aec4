"""Nothing is learnt from prompts, padding, and rows without an answer, by PPO, GRPO and RLOO alike."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.algos.grpo import GrpoConfig
from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.algos.rloo import RlooConfig
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.types import Rollouts, Tokens, TokenScores
from tests.algos.rollouts import IS_TOKEN, N_TOKENS, WEIGHTS, objective, prepared, rollout

CONFIGS: dict[str, Any] = {
    "ppo": PpoConfig(entropy_bonus=0.01, value_clip=None),
    "ppo_kl_penalty": PpoConfig(surrogate="kl_penalty", whiten_rewards="full"),
    "grpo": GrpoConfig(),
    "grpo_by_tokens": GrpoConfig(mean="tokens", kl="reward"),
    "rloo": RlooConfig(),
    "rloo_kl_in_the_loss": RlooConfig(kl="loss", clip=0.2),
}
SHAPE = (*WEIGHTS.shape, N_TOKENS + 1)


def logits_given() -> Any:
    """A language model whose params are its logits [B, T, V], said of every place, whatever its weight."""

    def token_scores(params: jax.Array, tokens: Tokens, temperature: float = 1.0) -> TokenScores:
        logp_BTV = jax.nn.log_softmax(params / temperature)
        logp_BT = jnp.take_along_axis(logp_BTV, tokens.targets_BT[..., None], axis=-1)[..., 0]
        entropy_BT = -jnp.sum(jnp.exp(logp_BTV) * logp_BTV, axis=-1)
        return TokenScores(logp_BT, entropy_BT, jax.nn.logsumexp(params / temperature, axis=-1))

    return SimpleNamespace(token_scores=token_scores)


MODELS = {
    "policy": logits_given(),
    "ref": logits_given(),
    "value": SimpleNamespace(values=lambda params, tokens: {"score": params}),
}


def params_of(seed: int, junk: int) -> dict[str, jax.Array]:
    """Logits and values that `seed` says at tokens of answers, and that `junk` says, ten times larger, elsewhere."""

    def mixed(shape: tuple[int, ...], which: int) -> jax.Array:
        own, other = (np.random.default_rng([number, which]).normal(size=shape) for number in (seed, junk))
        at_token = IS_TOKEN.reshape(IS_TOKEN.shape + (1,) * (len(shape) - 2))
        return jnp.asarray(np.where(at_token, own, 10 * other), jnp.float32)

    return {"policy": mixed(SHAPE, 0), "ref": mixed(SHAPE, 1), "value": mixed(WEIGHTS.shape, 2)}


@pytest.mark.parametrize("name", CONFIGS)
def test_masked_places_have_no_gradient_and_no_say(name: str) -> None:
    """With respect to every logit and value: exactly 0 where no token of an answer is, and not 0 at any that is."""
    algo = ALGOS[CONFIGS[name].kind](CONFIGS[name], MODELS, 0.7)
    found = []
    for junk in (11, 12):
        batch = prepared(algo, params=params_of(1, junk))
        near = jax.tree.map(
            lambda a, b: a + 0.02 * b, params_of(1, junk), params_of(2, junk + 10)
        )  # nothing is clipped
        loss, grads = jax.value_and_grad(objective, argnums=1)(algo, near, batch)
        for role in algo.trained:
            size_BT = np.abs(np.asarray(grads[role])).reshape(*WEIGHTS.shape, -1).max(-1)
            assert not size_BT[~IS_TOKEN].any(), role
            assert size_BT[IS_TOKEN].all(), role
        assert not grads["ref"].any()
        found.append((loss, grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), *found)


@pytest.fixture(scope="module")
def real() -> tuple[dict[str, Any], dict[str, Any]]:
    """Models and weights by role, all different."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    config = LlamaConfig(vocab_size=32, n_layers=1, n_heads=2, n_kv_heads=2, d_model=16, d_ff=16)
    heads = {"policy": "lm", "ref": "lm", "value": "scalar"}
    models = {role: build_model(config, ComputeConfig(loss_chunks=2), mesh, head) for role, head in heads.items()}
    return models, {role: model.init(jax.random.key(i)) for i, (role, model) in enumerate(models.items())}


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_what_stands_at_masked_places_changes_nothing(name: str, real: tuple[dict, dict]) -> None:
    """With a real model: other targets wherever nothing is trained, other tokens after the answers."""
    models, params = real
    algo = ALGOS[CONFIGS[name].kind](CONFIGS[name], models, 0.7)

    @jax.jit
    def learnt(params: Any, batch: Rollouts) -> Any:
        ready = jax.tree.map(lambda x: x[0], algo.prepare(params, batch))
        moved = params | {"policy": jax.tree.map(lambda x: 0.95 * x, params["policy"])}
        return jax.value_and_grad(objective, argnums=1)(algo, moved, ready)

    def with_others(inputs: np.ndarray, targets: np.ndarray) -> Rollouts:
        """Other ids where these masks are true."""
        batch = rollout()
        swap = lambda ids, where: jnp.where(jnp.asarray(where)[None], 31 - ids, ids)
        tokens = batch.tokens
        tokens = tokens.replace(  # type: ignore[attr-defined]
            inputs_BT=swap(tokens.inputs_BT, inputs), targets_BT=swap(tokens.targets_BT, targets)
        )
        return batch.replace(tokens=tokens)  # type: ignore[no-any-return, attr-defined]

    after = np.cumsum(IS_TOKEN[:, ::-1], axis=1)[:, ::-1] == 0
    nowhere = np.zeros_like(IS_TOKEN)
    assert after.any(axis=1).sum() > 2
    loss, grads = learnt(params, rollout())
    same_loss, same_grads = learnt(params, with_others(after, ~IS_TOKEN))
    np.testing.assert_allclose(same_loss, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), same_grads, grads)
    for others in (with_others(IS_TOKEN, nowhere), with_others(nowhere, IS_TOKEN)):
        assert abs(float(learnt(params, others)[0]) - float(loss)) > 1e-5
