"""What every algorithm of the table must keep, whatever its loss: a new one is covered on its first day."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.algos.grpo import GrpoConfig
from jaxrl_llm.algos.kto import KtoConfig
from jaxrl_llm.algos.orpo import OrpoConfig
from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.algos.pretrain import PretrainConfig
from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.algos.rloo import RlooConfig
from jaxrl_llm.algos.sft import SftConfig
from jaxrl_llm.algos.simpo import SimpoConfig
from jaxrl_llm.assemble import make_prepare, state_template
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import AXES, BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.parallel.specs import map_specs, shardings
from jaxrl_llm.rollout.rows import from_arrays, lay_out
from jaxrl_llm.rollout.sampler import Completion
from jaxrl_llm.training.optim import AdamwConfig, MuonConfig, make_optimizer
from jaxrl_llm.training.state import merge, new_state
from jaxrl_llm.training.step import Step, make_step
from jaxrl_llm.types import Algo, Answers, Labelled, Model, Pairs, Rollouts, Tokens, TrainState

MODEL = LlamaConfig(vocab_size=128, d_model=64, d_ff=96, n_layers=4, n_heads=8, n_kv_heads=4)
ROWS, T = 8, 16
SLOTS, PLACES = 4, 5  # of answers and of pairs in a row of LAYOUT

# Groups of answers, packed in rows: tokens of the prompt, tokens of each answer, rank of each answer.
Group = tuple[int, tuple[int, ...], tuple[int, ...]]
LAYOUT: list[list[Group]] = [
    [(3, (4, 5), (0, 1))],
    [(3, (3, 4, 3), (1, 0, 2))],
    [(2, (2, 1), (1, 0)), (3, (3, 2), (0, 1))],
    [],
    [(1, (7, 7), (0, 1))],
    [(0, (5, 6), (0, 1))],  # each answer with a prompt of its own, nothing is shared
    [(4, (2, 2, 2, 2), (0, 1, 1, 2))],  # a tie makes no pair
    [(5, (1, 9), (0, 1))],
]


def ragged_tokens(seed: int, micro_batches: int) -> Tokens:
    """Rows of two documents of unequal length; every row has another number of trained tokens, one has none."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, MODEL.vocab_size, (2, ROWS, T), dtype=np.int32)
    cut = rng.integers(3, T - 3, ROWS)
    second = np.arange(T) >= cut[:, None]
    positions = np.where(second, np.arange(T) - cut[:, None], np.arange(T)).astype(np.int32)
    weights = (rng.random((ROWS, T)) < np.linspace(0, 1, ROWS)[:, None]).astype(np.float32)
    return by_micro_batch(Tokens(ids[0], ids[1], weights, 1 + second.astype(np.int32), positions), micro_batches)


def answers(seed: int, micro_batches: int) -> Answers:
    """The rows of LAYOUT with random tokens; some answers are said to be safe or unsafe."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, MODEL.vocab_size, (2, ROWS, T), dtype=np.int32)
    segments, parents, positions = (np.zeros((ROWS, T), np.int32) for _ in range(3))
    segment, end, length = (np.zeros((ROWS, SLOTS), np.int32) for _ in range(3))
    for b, groups in enumerate(LAYOUT):
        at, slot, last = 0, 0, 0  # place in the row, slot, number of the last segment
        for prompt, lengths, _ in groups:
            parent = last + 1 if prompt else 0
            segments[b, at : at + prompt], positions[b, at : at + prompt] = parent, np.arange(prompt)
            at, last = at + prompt, last + bool(prompt)
            for n in lengths:
                last += 1
                here = slice(at, at + n)
                segments[b, here], parents[b, here], positions[b, here] = last, parent, prompt + np.arange(n)
                segment[b, slot], end[b, slot], length[b, slot] = last, at + n - 1, n
                at, slot = at + n, slot + 1
    weights = np.zeros((ROWS, T), np.float32)
    for b in range(ROWS):
        weights[b, np.isin(segments[b], segment[b][segment[b] > 0])] = 1
    tokens = Tokens(ids[0], ids[1], weights, segments, positions, parents)
    safe = np.where(segment > 0, rng.integers(-1, 2, segment.shape), -1).astype(np.int32)
    ref = (-math.log(MODEL.vocab_size) * length + rng.normal(size=length.shape)).astype(np.float32)
    return by_micro_batch(Answers(tokens, segment, end, safe, ref), micro_batches)


def pairs(seed: int, micro_batches: int) -> Pairs:
    """All pairs of unequal rank; slots are counted in their own micro-batch."""
    rng = np.random.default_rng(seed)
    better, worse = (np.zeros((ROWS, PLACES), np.int32) for _ in range(2))
    weight = np.zeros((ROWS, PLACES), np.float32)
    for b, groups in enumerate(LAYOUT):
        place, first = 0, b % (ROWS // micro_batches) * SLOTS
        for _, _, ranks in groups:
            found = [(i, j) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]]
            for i, j in found:
                better[b, place], worse[b, place], weight[b, place] = first + i, first + j, 1 / len(found)
                place += 1
            first += len(ranks)
    margin = rng.random(weight.shape).astype(np.float32)
    rating = rng.integers(-1, 4, weight.shape).astype(np.int32)
    columns = (x.reshape(micro_batches, -1) for x in (better, worse, weight, margin, rating))
    return Pairs(answers(seed, micro_batches), *columns)  # type: ignore[arg-type]


def labelled(seed: int, micro_batches: int) -> Labelled:
    """Answers wanted or not, and as many to other prompts."""
    own = answers(seed, micro_batches)
    label = np.random.default_rng(seed).integers(0, 2, own.segment_BA.shape)
    label = np.where(own.segment_BA > 0, label, -1).astype(np.int32)
    return Labelled(own, label, mismatched=answers(seed + 1000, micro_batches))  # type: ignore[arg-type]


# Prompts and the answers to them: tokens of the prompt, tokens of each answer, of which the longest fill their rows.
WRITTEN: list[tuple[int, tuple[int, ...]]] = [(3, (1, 6, T - 2, 5)), (7, (T - 6, 2, 9, T - 6))]


def rollouts(seed: int, micro_batches: int) -> Rollouts:
    """Answers of two prompts with their scores; those that fill their rows were cut off.  Text for PPO-ptx."""
    rng = np.random.default_rng(seed)
    prompts, completions = [], []
    for n_prompt, lengths in WRITTEN:
        prompt = rng.integers(0, MODEL.vocab_size, n_prompt).tolist()
        for n in lengths:
            logp = np.float32(rng.normal(-4.8, 0.5, n))
            ended = n_prompt + n <= T
            completions.append(Completion(rng.integers(0, MODEL.vocab_size, n).tolist(), logp, logp, ended))
            prompts.append(prompt)
    rows = from_arrays(
        lay_out(prompts, completions, rng.normal(size=ROWS), n=4, length=T)
        | {"kl_coef_B": np.full(ROWS, 0.1, np.float32), "penalty_coef_B": np.full(ROWS, 0.4, np.float32)}
    )
    rows = by_micro_batch(rows, micro_batches)
    return rows.replace(pretrain=ragged_tokens(seed, micro_batches))  # type: ignore[no-any-return]


def by_micro_batch(rows: Any, micro_batches: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), rows)


# (seed, micro-batches) -> the same rows, whatever the number of micro-batches; numpy, [M, ...]
BATCHES: Mapping[type, Callable[[int, int], Any]] = {
    Tokens: ragged_tokens,
    Pairs: pairs,
    Labelled: labelled,
    Rollouts: rollouts,
}
CASES: Mapping[str, Any] = {
    "pretrain": PretrainConfig(z_loss=1e-2),
    "sft": SftConfig(),
    "reward": RewardConfig(margin="large", centring=0.01, safety_weight=0.5),
    "reward_pointwise": RewardConfig(loss="pointwise"),
    "dpo": DpoConfig(nll_weight=0.1),
    "dpo_cached": DpoConfig(loss="ipo_mean", beta=0.5, reference="cached"),
    "simpo": SimpoConfig(),
    "orpo": OrpoConfig(),
    "kto": KtoConfig(beta=0.5, undesirable_weight=1.5),
    "ppo": PpoConfig(entropy_bonus=0.05, value_clip=0.05),
    "ppo_penalty_ptx": PpoConfig(surrogate="kl_penalty", ptx_weight=0.5, whiten_rewards="keep_mean", value_clip=None),
    "grpo": GrpoConfig(),
    "rloo": RlooConfig(clip=0.2),
}
TEMPERATURE = 0.7  # that rollouts were sampled at

single_device = make_mesh(MeshConfig(), jax.devices()[:1])


def test_every_algorithm_is_here() -> None:
    assert {config.kind for config in CASES.values()} == ALGOS.keys()


class Built(NamedTuple):
    """An algorithm on a mesh.  A state is given away to the step, which takes long to compile and serves several."""

    algo: Algo
    step: Step
    state: Callable[[], TrainState]  # the first one, each time anew
    batch: Callable[[TrainState, int, int], Any]  # (state, seed, micro-batches) -> what the step takes
    prepare: Callable[[TrainState, Any], Any]  # of rollouts


def build(
    name: str,
    mesh: Mesh,
    tx: Any = None,
    compute: ComputeConfig = ComputeConfig(loss_chunks=2),  # noqa: B008
) -> Built:
    """The case on a mesh, with a running average of all trained weights.  Without `tx` an update is minus the gradient.

    Rollouts are prepared under other weights than those of the state, as after some updates.
    """
    config = CASES[name]
    heads = {**config.trained, **config.frozen}
    models = {role: build_model(MODEL, compute, mesh, head) for role, head in heads.items()}
    algo = ALGOS[config.kind](config, models, *([TEMPERATURE] if config.consumes is Rollouts else []))
    specs = {role: models[role].specs for role in algo.trained}
    tx = tx(specs, mesh) if tx else optax.with_extra_args_support(optax.scale(-1.0))
    where = jax.tree.map(lambda leaf: leaf.sharding, state_template(specs, tx, mesh, averaged=specs))
    prepare = make_prepare(algo, merge, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))

    def first() -> TrainState:
        params = {role: weights_of(models[role], mesh, seed=0) for role in algo.trained}
        fixed = {role: weights_of(models[role], mesh, seed=1) for role in algo.frozen}
        return new_state(tx, params, fixed, where)

    def batch(state: TrainState, seed: int, micro_batches: int = 1) -> Any:
        rows = on_mesh(BATCHES[algo.consumes](seed, micro_batches), mesh)
        if algo.consumes is not Rollouts:
            return rows
        earlier = state.replace(params=jax.tree.map(lambda x: 0.9 * x, state.params))  # type: ignore[attr-defined]
        in_turn(earlier)
        rows = prepare(earlier, rows)
        in_turn(rows)
        return rows

    return Built(algo, make_step(algo, tx, lambda t: jnp.float32(1e-3), where, ema=0.9), first, batch, prepare)


def weights_of(model: Model, mesh: Mesh, seed: int) -> Any:
    """Random weights that take no compiling."""
    rng = np.random.default_rng(seed)
    one = lambda s: np.float32(rng.standard_normal(s.shape) * 0.1 + ("norm" in s.axes))
    return jax.device_put(map_specs(one, model.specs), shardings(model.specs, mesh))


def on_mesh(batch: Any, mesh: Mesh) -> Any:
    """Rows are split over the devices; the lists of pairs [M, P] and z0 lie whole on each."""
    rows, whole = (NamedSharding(mesh, PartitionSpec(None, *axes)) for axes in ((BATCH_AXES,), ()))
    if not isinstance(batch, Pairs):
        return jax.device_put(batch, rows)
    lists = {field.name: whole for field in dataclasses.fields(batch)} | {"answers": rows}
    return batch.replace(**{name: jax.device_put(getattr(batch, name), where) for name, where in lists.items()})  # type: ignore[attr-defined]


def loss_and_grads(built: Built, micro_batches: int = 1) -> tuple[dict, Any]:
    state = built.state()
    before = jax.device_get(state.params)
    state, metrics = built.step(state, built.batch(state, 3, micro_batches))
    return jax.device_get(metrics), jax.tree.map(np.subtract, before, jax.device_get(state.params))


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(name: str) -> Built:
    return build(name, single_device)


@pytest.fixture(scope="module")
def reference(built: Built) -> tuple[dict, Any]:
    return loss_and_grads(built)


def test_the_config_says_what_the_algorithm_is(name: str, built: Built) -> None:
    algo, config = built.algo, CASES[name]
    assert (config.trained, config.frozen, config.consumes) == (algo.trained, algo.frozen, algo.consumes)
    assert not algo.trained.keys() & algo.frozen.keys()
    assert algo.prepare is not None or not algo.frozen


def test_every_term_has_a_weight_and_a_count_of_the_batch_alone(built: Built) -> None:
    """Other weights, even such that are no numbers, change no count."""
    algo, state = built.algo, built.state()
    batch = built.batch(state, 1, 1)
    prepare = None if algo.consumes is Rollouts else algo.prepare  # rollouts are prepared
    found: set[str] = set()

    @jax.jit
    def counts(params: Any) -> list:
        roles = params | state.fixed
        rows = batch if prepare is None else prepare(roles, batch)
        terms, metrics = algo.loss(roles, jax.tree.map(lambda x: x[0], rows))
        found.update(terms)
        return [mean.count for mean in (*terms.values(), *metrics.values())]

    want = np.asarray(counts(state.params))
    assert found == algo.weights.keys()
    assert (want > 0).any()
    for change in (lambda x: 2 * x + 0.1, lambda x: x * np.nan):
        np.testing.assert_array_equal(counts(jax.tree.map(change, state.params)), want)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_accumulation_equals_one_batch(built: Built, reference: tuple[dict, Any], micro_batches: int) -> None:
    metrics, grads = loss_and_grads(built, micro_batches)
    np.testing.assert_allclose(metrics["loss"], reference[0]["loss"], rtol=1e-6, atol=2e-7)  # terms may cancel
    for key in reference[0]:
        np.testing.assert_allclose(metrics[key], reference[0][key], rtol=2e-6, atol=2e-6, err_msg=key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), grads, reference[1])


@pytest.mark.parametrize("name", [name for name, config in CASES.items() if config.consumes is Rollouts], indirect=True)
def test_the_step_takes_rollouts_as_the_earlier_policy_left_them(name: str, reference: tuple[dict, Any]) -> None:
    """It does not prepare them anew, for then all ratios were 1; and some of them are clipped."""
    metrics, _ = reference
    assert abs(metrics["ratio"] - 1) > 1e-3
    assert metrics["approx_kl_k3"] > 1e-3
    if name != "ppo_penalty_ptx":
        assert 0 < metrics["clip_fraction"] < 1


# One of each kind of batch and head; of the others fsdp x context is compared below, by the size of the gradient.
MESHES = [(name, (1, 2, 2, 2)) for name in ("pretrain", "reward", "dpo", "kto", "ppo")]
MESHES += [("pretrain", shape) for shape in ((8, 1, 1, 1), (2, 2, 2, 1), (1, 1, 2, 4))]


@pytest.mark.parametrize(("name", "shape"), MESHES, indirect=["name"], ids=str)
def test_a_mesh_equals_one_device(name: str, reference: tuple[dict, Any], shape: tuple[int, int, int, int]) -> None:
    mesh = make_mesh(MeshConfig(**dict(zip(AXES, shape, strict=True))))
    metrics, grads = loss_and_grads(build(name, mesh))
    np.testing.assert_allclose(metrics["loss"], reference[0]["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), grads, reference[1])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 1e-2


OPTIMIZERS = {
    "adamw": lambda specs, mesh: make_optimizer(AdamwConfig(), lambda t: jnp.float32(1e-3), specs, mesh),
    "muon": lambda specs, mesh: make_optimizer(MuonConfig(), lambda t: jnp.float32(1e-3), specs, mesh),
}


@pytest.mark.parametrize(
    ("name", "optimizer", "layers", "context"),
    [(name, "adamw", "scan", 2) for name in CASES]
    + [("pretrain", "adamw", "unroll", 1), ("pretrain", "muon", "scan", 1)],
    indirect=["name"],
)
def test_fsdp_splits_memory_and_gathers_no_stack(
    name: str, reference: tuple[dict, Any], optimizer: str, layers: Any, context: int
) -> None:
    """A device holds an eighth of weights and optimizer, and no collective makes a whole stack of layers.

    One compilation serves every step, and the first is that of one device.
    """
    mesh = make_mesh(MeshConfig(fsdp=8 // context, context=context))
    built = build(name, mesh, OPTIMIZERS[optimizer], ComputeConfig(loss_chunks=2, layers=layers))
    step, state = built.step, built.state()
    batch = built.batch(state, 3, 1)
    text = step.lower(state, batch).compile().as_text()
    if built.algo.consumes is Rollouts:
        text += jax.jit(built.prepare).lower(state, batch).compile().as_text()
    matrices = [leaf for tree in state.params.values() for leaf in jax.tree.leaves(tree["layers"]) if leaf.ndim > 2]
    gathered = gathers(text)
    assert gathered, "an fsdp step must gather something"
    for leaf in matrices:  # neither the stack, in whatever order of axes, nor anything as large
        assert sorted(leaf.shape) not in [sorted(shape) for shape in gathered]
        assert leaf.size not in [math.prod(shape) for shape in gathered if shape[:1] == leaf.shape[:1]]
    assert max(map(math.prod, gathered)) < max(leaf.size for leaf in matrices)
    for seed in (3, 4, 5):
        assert per_device(state) <= 1.1 * total(state) / 8  # as they were put there, and as the step itself puts them
        state, metrics = step(state, built.batch(state, seed, 1))
        if seed == 3:
            for key in ("loss", "grad_norm"):
                np.testing.assert_allclose(metrics[key], reference[0][key], rtol=1e-5)
    assert step.jitted._cache_size() == 1
    assert int(state.step) == 3


def gathers(hlo: str) -> list[tuple[int, ...]]:
    """All shapes that all-gathers make, from lines such as `%ag = f32[1,64,96]{2,1,0} all-gather(...)`, tuples too."""
    made = re.findall(r"= ([^=]*?) all-gather(?:-start)?\(", hlo)
    return [tuple(map(int, shape.split(","))) for line in made for shape in re.findall(r"\w+\[([\d,]+)\]", line)]


def per_device(state: TrainState) -> int:
    leaves = jax.tree.leaves((state.params, state.fixed, state.opt_state, state.ema))
    return max(
        sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == device)
        for device in jax.devices()
    )


def total(state: TrainState) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.fixed, state.opt_state, state.ema)))
