"""Every recipe is what its comment says and can be traced at its full size, and no option is without one."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import pytest

from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.algos.kto import KtoConfig
from jaxrl_llm.algos.orpo import OrpoConfig
from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.algos.sft import SftConfig
from jaxrl_llm.algos.simpo import SimpoConfig
from jaxrl_llm.assemble import assemble
from jaxrl_llm.config import load
from jaxrl_llm.config.layers import find_config
from jaxrl_llm.data.config import ChatDataConfig, PreferenceDataConfig
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import PartsConfig
from jaxrl_llm.random_data import random_batch
from tests.config.test_golden import NAMES

SCHEMAS = (RewardConfig, DpoConfig, SimpoConfig, OrpoConfig, KtoConfig, ChatDataConfig, PreferenceDataConfig)
KINDS = tuple(config.kind for config in (SftConfig, *SCHEMAS[:5]))
RECIPES = [name for name in NAMES if name.partition("/")[0] in KINDS]
NUMBERS = {"beta", "gamma_ratio", "odds_weight", "desirable_weight"}  # there is no doing without them
DATA = (ChatDataConfig, PreferenceDataConfig)
# Of data: how they are split, kept and shuffled, the same whatever is trained; and what only their files decide.
NO_RECIPE = {"kind", "split", "cache_dir", "workers", "prefetch", "shuffle", "safety", "format"}
SMALL_BATCH = ("compute.layers=scan", "training.batch_size=16", "training.micro_batches=2", "data.length=64")


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_begins_with_what_it_is_and_has_its_command(name: str) -> None:
    head = find_config(name).read_text(encoding="utf-8").split("\n")
    assert head[0].startswith("# ")
    assert any(line.startswith(f"#   jaxrl-llm train {name} init_from=") for line in head)


@pytest.mark.parametrize("name", RECIPES)
def test_its_step_can_be_traced(name: str) -> None:
    """Its own model, algorithm and division of the weights on eight devices, as shapes alone: 8B take no memory."""
    config = load(name, [*SMALL_BATCH, "data.max_length=null"])
    parts = assemble(config)
    batch, _ = random_batch(config, parts, prompt_length=16, answer_length=8)
    state = parts.template
    whole = {role: jax.eval_shape(parts.models[role].init, jax.random.key(0)) for role in parts.algo.trained}
    fixed = jax.eval_shape(lambda weights: parts.complete(dict(state.fixed), weights), whole)
    after, metrics = jax.eval_shape(parts.step, dataclasses.replace(state, fixed=fixed), batch)
    params = after.params
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, state.params)
    assert {f"count/{term}" for term in parts.algo.weights} <= metrics.keys() | {
        f"count/{t}" for t in parts.algo.sparse
    }


def test_every_stage_has_a_recipe_of_each_size() -> None:
    found = {(config.algo.kind, config.model.preset) for config in map(load, RECIPES)}
    assert {(kind, preset) for kind in KINDS for preset in (None, "tinyllama-1.1b", "llama3.1-8b")} <= found


@pytest.mark.parametrize("schema", [*SCHEMAS, PartsConfig, LoraConfig])
def test_every_option_has_a_recipe(schema: type) -> None:
    """Of named choices each has one, of other options two that differ; what all data have may be shown with either."""
    sections = [section for config in map(load, RECIPES) for section in (config.algo, config.data, config.trainable)]
    choices, missing = get_type_hints(schema), []
    for name in {field.name for field in dataclasses.fields(schema)} - NO_RECIPE:
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
