"""Every recipe is what its comment says and can be traced at its full size, and no option is without one."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np
import pytest

from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.algos.grpo import GrpoConfig
from jaxrl_llm.algos.kto import KtoConfig
from jaxrl_llm.algos.orpo import OrpoConfig
from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.algos.rloo import RlooConfig
from jaxrl_llm.algos.sft import SftConfig
from jaxrl_llm.algos.simpo import SimpoConfig
from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config, load
from jaxrl_llm.config.layers import find_config, packaged_configs
from jaxrl_llm.data.config import ChatDataConfig, PreferenceDataConfig, PromptDataConfig
from jaxrl_llm.evals.config import TaskEvalConfig
from jaxrl_llm.models.critic import CriticConfig
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import PartsConfig
from jaxrl_llm.random_data import random_batch
from jaxrl_llm.rollout.config import (
    KlConfig,
    LengthPenaltyConfig,
    ModelRewardConfig,
    PenaltyConfig,
    RewardsConfig,
    RolloutConfig,
    TaskRewardConfig,
)
from jaxrl_llm.rollout.rows import from_arrays, lay_out
from jaxrl_llm.rollout.sampler import Completion
from jaxrl_llm.types import Rollouts, Tokens, TrainState
from tests.config.test_golden import NAMES

POLICIES = (DpoConfig, SimpoConfig, OrpoConfig, KtoConfig, PpoConfig, GrpoConfig, RlooConfig)
REWARDS = (RewardsConfig, ModelRewardConfig, TaskRewardConfig, LengthPenaltyConfig)
SCHEMAS = (RewardConfig, *POLICIES, ChatDataConfig, PreferenceDataConfig, PromptDataConfig, TaskEvalConfig)
SCHEMAS += (RolloutConfig, *REWARDS, KlConfig, PenaltyConfig, CriticConfig, PartsConfig, LoraConfig)
KINDS = tuple(config.kind for config in (SftConfig, RewardConfig, *POLICIES))
RECIPES = [name for name in NAMES if name.partition("/")[0] in KINDS]
NUMBERS = {"beta", "gamma_ratio", "odds_weight", "desirable_weight"}  # there is no doing without them
DATA = (ChatDataConfig, PreferenceDataConfig)
# Of data: how they are split, kept and shuffled, the same whatever is trained; and what only their files decide.
OF_DATA = {"split", "cache_dir", "workers", "prefetch", "shuffle", "safety", "format"}
SMALL_BATCH = ("compute.layers=scan", "training.batch_size=16", "training.micro_batches=2")
SHORT_ROWS = ("data.length=64", "data.max_length=null")
SHORT_ANSWERS = ("rollout.max_prompt_tokens=32", "rollout.max_new_tokens=32")


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_begins_with_what_it_is_and_has_its_command(name: str) -> None:
    head = find_config(name).read_text(encoding="utf-8").split("\n")
    assert head[0].startswith("# ")
    trained = any(f"{line} ".startswith(f"#   jaxrl-llm train {name} ") for line in head)
    assert trained or any(is_stage_of(name, line.removeprefix("#   jaxrl-llm run ")) for line in head)


def is_stage_of(name: str, pipeline: str) -> bool:
    """Whether a packaged pipeline trains by this recipe."""
    path = packaged_configs() / f"{pipeline}.yaml"
    return path.is_file() and f"config: ../{name}.yaml" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_its_step_can_be_traced(name: str) -> None:
    """Its own model, algorithm and division of the weights on eight devices, as shapes alone: 8B take no memory."""
    of_rollouts = load(name).algo.consumes is Rollouts
    config = load(name, [*SMALL_BATCH, *(SHORT_ANSWERS if of_rollouts else SHORT_ROWS)])
    parts = assemble(config)
    state = parts.template
    whole = {role: jax.eval_shape(parts.models[role].init, jax.random.key(0)) for role in parts.algo.trained}
    fixed = jax.eval_shape(lambda weights: parts.complete(dict(state.fixed), weights), whole)
    state = dataclasses.replace(state, fixed=fixed)
    batch = prepared(config, parts, state) if of_rollouts else random_batch(config, parts, 16, 8)[0]
    after, metrics = jax.eval_shape(parts.step, state, batch)
    params = after.params
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, state.params)
    assert {f"count/{term}" for term in parts.algo.weights} <= metrics.keys() | {
        f"count/{t}" for t in parts.algo.sparse
    }


def prepared(config: Config, parts: Assembly, state: TrainState) -> Rollouts:
    """A mini-batch of answers as its source serves it, after the recipe's own `prepare`: shapes."""
    n, micro, length = config.training.batch_size, config.training.micro_batches, config.length
    answer = Completion(tokens=[2] * 8, logp=np.zeros(8, np.float32), plain_logp=np.zeros(8, np.float32), ended=True)
    arrays = lay_out([[1] * 16] * n, [answer] * n, np.zeros(n, np.float32), config.rollout.n, length)
    arrays["kl_coef_B"] = arrays["penalty_coef_B"] = arrays["score_B"]

    def shapes(leading: int, *trailing: int, dtype: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((micro, leading // micro, *trailing), dtype, sharding=parts.batch_sharding)

    rows = from_arrays({name: shapes(*x.shape, dtype=str(x.dtype)) for name, x in arrays.items()})
    batch = jax.eval_shape(lambda state, rows: parts.prepare(state, rows), state, rows)
    if "ptx" not in parts.algo.weights:
        return batch
    ids, weights = (shapes(n, length, dtype=dtype) for dtype in ("int32", "float32"))
    return dataclasses.replace(batch, pretrain=Tokens(ids, ids, weights, ids, ids))


def test_every_stage_has_a_recipe_of_each_size() -> None:
    found = {(config.algo.kind, config.model.preset) for config in map(load, RECIPES)}
    assert {(kind, preset) for kind in KINDS for preset in (None, "tinyllama-1.1b", "llama3.1-8b")} <= found


def test_every_published_column_of_ppo_has_a_recipe_with_its_numbers() -> None:
    """β, KL target, temperature, peak rate (of InstructGPT the critic's), answers a round and an update, epochs."""
    found = {}
    for name in ("lm-human-preferences", "tldr", "instructgpt", "llama2", "llama2-70b"):
        config = load(f"ppo/{name}")
        algo, kl, rollout, rewards = config.algo, config.rollout.kl, config.rollout, config.rollout.rewards
        assert (algo.gamma, algo.lam, algo.clip, algo.value_clip, algo.value_weight) == (1.0, 0.95, 0.2, 0.2, 0.1)
        assert config.optim.eps == 1e-5
        sizes = rollout.prompts * rollout.n, config.training.batch_size, rollout.epochs
        rate = config.critic.lr or config.schedule.lr
        found[name] = (kl.coef, kl.target, rollout.temperature, rate, config.schedule.kind, *sizes, config.critic.head)
        assert rewards.missing_end == ("replace" if rollout.temperature == 0.7 else "none")
        assert rewards.combine == ("safety_first" if name.startswith("llama2") else "sum")
        assert rewards.normalise == ("whiten" if name.startswith("llama2") else "none")
        assert algo.whiten_rewards == ("keep_mean" if name == "lm-human-preferences" else "none")
    assert found == {
        "lm-human-preferences": (0.15, 6.0, 0.7, 1e-5, "linear", 512, 512, 4, "zero"),
        "tldr": (0.05, None, 0.7, 3e-6, "linear", 512, 512, 4, "auto"),
        "instructgpt": (0.02, None, 1.0, 9e-6, "constant", 512, 64, 1, "auto"),
        "llama2": (0.01, None, 1.0, 1e-6, "constant", 512, 64, 1, "auto"),
        "llama2-70b": (0.005, None, 1.0, 1e-6, "constant", 512, 64, 1, "auto"),
    }
    instructgpt = load("ppo/instructgpt")
    assert instructgpt.schedule.warmup * instructgpt.training.steps == 80
    assert (instructgpt.algo.ptx_weight, instructgpt.training.ema) == (27.8, 0.992)


def sections_of(config: Config) -> list[object]:
    """All sections that describe an algorithm, its data and its rewards, whatever they are named."""
    rollout, critic = config.rollout, config.critic
    rewards = [rollout.rewards, *rollout.rewards.parts.values(), rollout.kl, rollout.penalty]
    return [config.algo, config.data, config.trainable, rollout, *rewards, critic, *config.eval.tasks.values()]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_option_has_a_recipe(schema: type) -> None:
    """Of named choices each has one, of other options two that differ; what all data have may be shown with either."""
    sections = [section for config in map(load, RECIPES) for section in sections_of(config)]
    choices, missing = get_type_hints(schema), []
    without = OF_DATA if schema in (*DATA, PromptDataConfig) else set()
    for name in {field.name for field in dataclasses.fields(schema)} - {"kind"} - without:
        values = {
            str(getattr(s, name))
            for s in sections
            if type(s) is schema or (schema in DATA and type(s) in DATA)
            if hasattr(s, name)
        }
        named = get_args(choices[name]) if get_origin(choices[name]) is Literal else ()
        if not values >= set(named) or len(values) < (1 if name in NUMBERS else 2):
            missing.append(name)
    assert not missing
