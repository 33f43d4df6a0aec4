"""A source of rollouts whose sampler, scorer and `prepare` are scripted: no model runs."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.rollout.config import RewardsConfig, RolloutConfig, TaskRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.sampler import Completion
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.types import Rollouts, TrainState

END = 2
PROMPTS = [Prompt(ids=(1, *range(10 + i, 10 + i + i % 3)), said=f"p{i}", origin=f"f:{i + 1}") for i in range(6)]
REWARDS = RewardsConfig(parts={"grade": TaskRewardConfig()})


def sampling(weights: Any, ids: Any, *, n: int, max_new_tokens: int, seed: int, room: int) -> Any:
    """Answers of 1 .. max_new_tokens tokens that depend on the weights, the seed, the prompt's place and the sample."""
    rounds = []
    for place in range(len(ids)):
        rounds.append([])
        for sample in range(n):
            rng = np.random.default_rng([seed, place, sample, int(weights)])
            tokens = rng.integers(3, 90, rng.integers(1, max_new_tokens + 1)).tolist()
            ended = bool(rng.random() < 0.7)
            tokens = [*tokens[:-1], END] if ended else tokens
            logp = -rng.random(len(tokens)).astype(np.float32)
            rounds[-1].append(Completion(tokens, logp, logp, ended))
    return rounds, SimpleNamespace(occupancy=0.5)


@jax.jit
def prepare(state: TrainState, rows: Rollouts) -> Rollouts:
    """What the real one fills, and a statistic over all rows."""
    advantage_BT = rows.score_B[..., None] * rows.tokens.weights_BT
    statistics = {"score": jnp.broadcast_to(jnp.mean(rows.score_B), rows.score_B.shape)}
    return rows.replace(logp_BT=rows.sampler_logp_BT, advantage_BT=advantage_BT, statistics=statistics)  # type: ignore


def grade(prompts: Any, texts: Any) -> np.ndarray:
    """A fraction of the text."""
    return np.asarray([sum(map(int, text.split())) % 97 / 97 for text in texts], np.float32)


def state_of(weights: int, step: int = 0) -> TrainState:
    return TrainState(jnp.int32(step), {"policy": {"w": jnp.full(8, weights, jnp.float32)}}, {}, {})


def new(scorer: Any = grade, sampler: Any = sampling, **options: Any) -> RolloutSource:
    names = set(RolloutConfig.__dataclass_fields__)  # type: ignore[attr-defined]
    config = {"prompts": 4, "n": 2, "max_new_tokens": 5, "rewards": REWARDS, "epochs": 2}
    config |= {name: value for name, value in options.items() if name in names}
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    others = {
        "batch_size": 4,
        "micro_batches": 1,
        "context": 32,
        "seed": 7,
        "prompts_given": PROMPTS,
        "scorers": {"grade": scorer},
    }
    others |= {name: value for name, value in options.items() if name not in names}
    return RolloutSource(
        RolloutConfig(**config),
        others.pop("prompts_given"),
        sampler=sampler,
        policy_weights=lambda state: state.params["policy"]["w"][0],
        to_text=lambda ids: " ".join(map(str, ids)),
        prepare=prepare,
        sharding=NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)),
        **others,
    )


def rows_of(batch: Rollouts) -> list[tuple[int, ...]]:
    """The ids of each row, which tell rows apart."""
    targets = np.asarray(batch.tokens.targets_BT)
    return [tuple(row) for row in targets.reshape(-1, targets.shape[-1]).tolist()]


def met(**values: float) -> dict[str, Any]:
    """Metrics of an update as a step gives them."""
    return {name: jnp.float32(value) for name, value in {"approx_kl_k3": 0.0, "entropy": 1.0, **values}.items()}


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
