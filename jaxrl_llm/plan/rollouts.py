"""Lines of a round of rollouts: sample, score, prepare; and the reward models, of which only the shape is read."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxrl_llm.assemble import Assembly, check_divides, weights_template
from jaxrl_llm.config import Config, Planned, load, planned_at
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import row_lengths
from jaxrl_llm.models.attention import QUERY_BLOCK
from jaxrl_llm.models.compute import ComputeConfig, compute_dtype
from jaxrl_llm.models.decoder import cache_sharding
from jaxrl_llm.models.hf import base_model, describe, is_adapter, is_huggingface
from jaxrl_llm.models.llama import LlamaConfig, llama_specs
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.parallel.mesh import WEIGHT_AXES, ways
from jaxrl_llm.parallel.specs import SAMPLER_RULES
from jaxrl_llm.plan.shapes import batch_of, laid_out, one_layer, round_shape, row_length
from jaxrl_llm.plan.sizes import RESIDENT, Line, Size, on_each, one_at_a_time, size_of
from jaxrl_llm.plan.update import is_fused, logits_of_a_piece, places_of, rows_of
from jaxrl_llm.plan.weights import fetched_line, fetched_lines
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.sampler import CACHE_STEP, PREFILL_ROWS, PREFILL_TOKENS, bucket
from jaxrl_llm.types import Head, Params
from jaxrl_llm.workdir import CONFIG

PREPARED = "prepared answers of a round"


@dataclass(frozen=True)
class RewardModel:
    """A reward model that a run reads."""

    name: str  # of the part of rollout.rewards.parts
    model: LlamaConfig
    head: Head
    compute: ComputeConfig
    note: str = ""  # what was taken for granted


def reward_models(config: Config, planned: Planned) -> list[RewardModel]:
    """Those that the config names.  One that is neither there nor planned is taken to have the policy's shape, and that
    is noted.

    Raises:
        UserError: there is something else in its place.
    """
    found = []
    for name, part in config.rollout.rewards.parts.items():
        if isinstance(part, ModelRewardConfig):
            try:
                found.append(_reward_model(name, Path(part.path), config, planned))
            except UserError as error:
                raise UserError(f"rollout.rewards.parts.{name}: {error}") from error
    return found


def _reward_model(name: str, path: Path, config: Config, planned: Planned) -> RewardModel:
    folder, there = path.parent.parent if path.parent.name == "checkpoints" else path, planned_at(planned, path)
    if there is None and (folder / CONFIG).is_file():
        there = load(folder / CONFIG)
    if there is not None:
        if "reward" not in there.algo.trained:
            raise UserError(
                f"{path}: a run of algo.kind={there.algo.kind}, and a reward model is wanted\n"
                "  mend: the path of a run of algo.kind=reward"
            )
        return RewardModel(name, there.model, there.algo.trained["reward"], there.compute)
    if is_adapter(path):
        where, head = base_model(path)
        return dataclasses.replace(_reward_model(name, Path(where), config, planned), head=head)
    if is_huggingface(path):
        said = describe(path)
        if said.head == "lm":
            raise UserError(f"{path}: holds a language model, and a reward model is wanted")
        return RewardModel(name, said.model, said.head, ComputeConfig())
    if path.exists():
        raise UserError(f"{path}: there is no run ({CONFIG}) and no Hugging Face model (config.json)")
    note = f"{path} is not there yet: the reward model `{name}` is taken to have the policy's shape"
    return RewardModel(name, config.model, "scalar", config.compute, note)


def reward_lines(config: Config, parts: Assembly, rewards: list[RewardModel]) -> Iterator[Line]:
    """Their weights, which stay in the dtype that they compute in."""
    for reward in rewards:
        check_divides(reward.model, parts.mesh)
        size = size_of(weights_of(reward, config, parts))
        size = size.on_host() if parts.offloads else size
        yield Line(RESIDENT, reward.name, f"weights, fixed ({dtype_of(reward, config).name})", size)


def weights_of(reward: RewardModel, config: Config, parts: Assembly) -> Params:
    """Its weights as shapes on the mesh."""
    return laid_out(llama_specs(reward.model, reward.head), parts.mesh, dtype_of(reward, config))


def dtype_of(reward: RewardModel, config: Config) -> jnp.dtype:
    """What it computes in: its own, where that says nothing what the run's means."""
    return compute_dtype(config.compute if reward.compute.dtype == "auto" else reward.compute)


def round_lines(config: Config, parts: Assembly, rewards: list[RewardModel], answers: Size) -> Iterator[Line]:
    """What sampling, scoring and preparing have besides; `answers`: of the round, when they are prepared."""
    yield from _sample(config, parts)
    yield from _score(config, parts, rewards)
    yield Line("prepare", "rollouts", PREPARED, answers)
    yield from _prepare(config, parts)


def whole_round(config: Config, parts: Assembly) -> Size:
    """The prepared answers of a round, which are there until all updates have learnt from them."""
    return size_of(batch_of(config, parts, *round_shape(config), row_length(config)))


@dataclass(frozen=True)
class SamplerShape:
    """How large the sampler's arrays are, for the longest prompts."""

    slots: int
    length: int  # of their cache
    new: int  # of a slot's completion
    prompts: int  # that are run at once
    padded: int  # to this length


def sampler_shape(config: Config, parts: Assembly) -> SamplerShape:
    """As `Sampler` makes them."""
    rollout, copies = config.rollout, parts.mesh.shape["data"]
    slots = -(-min(rollout.slots, rollout.prompts * rollout.n) // copies) * copies
    prompt = row_length(config) - rollout.max_new_tokens
    length, new = (-(-n // CACHE_STEP) * CACHE_STEP for n in (prompt + rollout.max_new_tokens, rollout.max_new_tokens))
    padded = bucket(prompt)
    prompts = max(1, min(rollout.prompts, slots, PREFILL_ROWS, PREFILL_TOKENS // padded))
    return SamplerShape(slots, length, new, prompts, padded)


def score_length(reward: RewardModel, config: Config) -> int:
    """Of the longest rows that it reads, if its tokens are as many as the policy's."""
    longest = -(-(row_length(config) + 1) // 64) * 64
    return next((n for n in row_lengths(reward.model.context, longest) if n >= longest), reward.model.context)


def _sample(config: Config, parts: Assembly) -> Iterator[Line]:
    mesh, model = parts.mesh, config.model
    specs, dtype = parts.models["policy"].specs, parts.fixed_dtype
    yield Line("sample", "policy", "weights put together (float32)", size_of(joined(config, parts, "policy")))
    layer = size_of(laid_out(one_layer(specs["layers"]), mesh, dtype, SAMPLER_RULES))
    rest = size_of(laid_out({k: v for k, v in specs.items() if k != "layers"}, mesh, dtype, SAMPLER_RULES))
    yield Line("sample", "policy", f"sampler's weights ({dtype.name})", layer * model.n_layers + rest)
    shape = sampler_shape(config, parts)
    slots, prompts, padded = shape.slots, shape.prompts, shape.padded
    yield Line(
        "sample", "policy", f"KV cache of {slots} slots x {shape.length}", cache_size(parts, slots, shape.length)
    )
    yield Line("sample", "policy", f"KV cache of {prompts} prompts x {padded}", cache_size(parts, prompts, padded))
    vocab, tensor = model.vocab_size, ways(mesh, (*WEIGHT_AXES, "tensor"))
    logits = 4 * (vocab if vocab % tensor else vocab // tensor)
    rows = -(-slots // mesh.shape["data"])
    state = 4 * logits * rows + 4 * rows * shape.new * 3
    yield Line("sample", "policy", "slots: logits, tokens", on_each(state, mesh.size), exact=False)
    at_work = forward_layer(
        model, -(-prompts // mesh.shape["data"]), padded, dtype, tensor, is_fused(config, parts, model)
    )
    yield Line("sample", "policy", "a layer at work, prompts", on_each(at_work, mesh.size), exact=False)


def joined(config: Config, parts: Assembly, role: str) -> Params:
    """Of whole weights those that `Assembly.whole` makes anew: with adapters added in, or of layers that were cut."""
    layers, division = parts.models[role].specs["layers"], parts.divisions[role]
    if isinstance(config.trainable, LoraConfig):
        made = {name: layers[name] for name in config.trainable.targets}
    else:
        made = {} if "layers" in {**division.specs, **division.fixed_specs} else layers
    return weights_template(made, parts.mesh)


def cache_size(parts: Assembly, rows: int, length: int) -> Size:
    """Of the keys and values of these rows."""
    shapes = jax.eval_shape(lambda: parts.models["policy"].decoder.empty_cache(rows, length))

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cache_sharding(x.shape, parts.mesh))

    return size_of(jax.tree.map(placed, (shapes.keys, shapes.values)))


def _score(config: Config, parts: Assembly, rewards: list[RewardModel]) -> Iterator[Line]:
    """Rows of answers as a reward model reads them, whatever its tokens: taken to be as many as the policy's."""
    rows, tensor = rows_of(config, parts), parts.mesh.shape["tensor"]
    found = []
    for reward in rewards:
        if parts.offloads:
            yield fetched_line("score", reward.name, weights_of(reward, config, parts), parts.mesh)
        model, length = reward.model, score_length(reward, config)
        dtype, fused = dtype_of(reward, config), is_fused(config, parts, model)
        layer = forward_layer(model, rows, length, dtype, tensor, fused, parts.mesh.shape["context"])
        found.append((layer, reward.name, "a layer at work"))
    yield from one_at_a_time("score", found, parts.mesh.size)


def _prepare(config: Config, parts: Assembly) -> Iterator[Line]:
    rows, length = rows_of(config, parts), row_length(config)
    tensor, context = parts.mesh.shape["tensor"], parts.mesh.shape["context"]
    yield from fetched_lines("prepare", parts)
    heads, found = {**parts.algo.trained, **parts.algo.frozen}, []
    for role in parts.models:
        model = config.model_of(role)
        fused = is_fused(config, parts, model)
        layer = forward_layer(model, rows, length, parts.fixed_dtype, tensor, fused, context)
        found.append((layer, role, "a layer at work"))
        if heads[role] == "lm":
            logits = logits_of_a_piece(config, parts, rows, places_of(length, parts))
            found.append((logits, role, "logits of a piece (float32)"))
    yield from one_at_a_time("prepare", found, parts.mesh.size)


def forward_layer(
    model: LlamaConfig, rows: int, length: int, dtype: jnp.dtype, tensor: int, fused: bool, context: int = 1
) -> float:
    """Bytes of one layer's arrays on one device without a gradient: the residual stream, q, k, v, the MLP, scores.

    Of rows that are split along T it has its places, keys and values of all, and scores of a block of queries.
    """
    context = context if length % context == 0 else 1
    places, queries = length // context, length if context == 1 else min(QUERY_BLOCK, length // context)
    width, heads = model.channels * (2 * model.n_heads + 2 * model.n_kv_heads), model.n_heads / tensor
    stream = model.d_model * (3 * dtype.itemsize + 4)
    inner = (width + 3 * model.d_ff) * dtype.itemsize / tensor
    whole = 2 * (length - places) * model.n_kv_heads * model.channels * dtype.itemsize / tensor
    scores = 0 if fused else heads * queries * length * (4 + dtype.itemsize)
    return rows * (places * (stream + inner) + whole + scores)
