"""Rounds of the policy's own answers, by a scripted sampler and once by a real one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.algos.ppo import build as build_ppo
from jaxrl_llm.errors import UserError
from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.rollout.config import KlConfig, ModelRewardConfig, RewardsConfig, RolloutConfig, TaskRewardConfig
from jaxrl_llm.rollout.prompts import Prompt, drawn
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.source import RolloutSource, row_length
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.config import CheckpointConfig
from jaxrl_llm.types import Tokens, TrainState
from tests.rollout.scripted import END, PROMPTS, REWARDS, grade, met, new, rows_of, same, sampling, state_of


def test_every_row_carries_its_answer_and_its_reward() -> None:
    samples: list[Any] = []
    source = new(batch_size=8, samples=100)
    source.on_samples = samples.extend
    batch, metrics = source.next(state_of(0))
    assert batch.score_B.shape == (1, 8)
    assert batch.tokens.inputs_BT.shape == (1, 8, 3 + 5)  # the longest prompt and the longest answer, always
    assert batch.score_B.sharding.spec == PartitionSpec(None, BATCH_AXES)
    for row, sample in enumerate(samples):
        said = next(prompt for prompt in PROMPTS if prompt.said == sample["prompt"])
        ids = [*said.ids, *sample["tokens"]]
        inputs, targets, weights = (
            np.asarray(x)[0, row] for x in (batch.tokens.inputs_BT, batch.tokens.targets_BT, batch.tokens.weights_BT)
        )
        assert inputs[: len(ids) - 1].tolist() == ids[:-1]
        assert targets[weights > 0].tolist() == sample["tokens"]
        score = grade(None, [sample["completion"]])[0]
        assert float(batch.score_B[0, row]) == score == np.float32(sample["reward"]) == sample["parts"]["grade"]
        assert bool(batch.ended_B[0, row]) == sample["ended"]
    assert len({float(x) for x in np.asarray(batch.score_B)[0]} - {0.0, 1.0}) > 3  # fractions
    assert batch.group_B[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert metrics["reward/grade"] == pytest.approx(float(np.mean(batch.score_B)))
    assert {"sample_s", "score_s", "prepare_s", "data_wait_s"} < metrics.keys()
    assert (metrics["round"], metrics["kl_coef"], metrics["prompts_dropped"]) == (0.0, 0.05, 0.0)


def test_rounds_go_on_through_the_prompts_with_other_samples() -> None:
    asked: list[Any] = []
    seeds: list[int] = []
    raw: list[np.ndarray] = []

    def recorded(weights: Any, ids: Any, **options: Any) -> Any:
        asked.extend(ids)
        seeds.append(options["seed"])
        return sampling(weights, ids, **options)

    def graded(prompts: Any, texts: Any) -> np.ndarray:
        raw.append(grade(prompts, texts))
        return raw[-1]

    rewards = RewardsConfig(parts={"grade": TaskRewardConfig()}, normalise="running")
    source = new(graded, recorded, rewards=rewards, epochs=1, batch_size=8)
    batches = [source.next(state_of(0))[0] for _ in range(3)]
    assert asked == [PROMPTS[i].ids for i in drawn(6, 7, 0, 12)]
    assert len(set(seeds)) == 3
    for number, batch in enumerate(batches):  # rewards are normalised by those of all rounds so far
        before = np.concatenate(raw[: number + 1]).astype(np.float64)
        np.testing.assert_allclose(batch.score_B[0], (raw[number] - before.mean()) / before.std(), rtol=1e-4)


@pytest.fixture(scope="module")
def trained() -> tuple[RolloutSource, Any, Any]:
    """A source with a real model, sampler and PPO; the reference is the policy, and answers refill two slots."""
    config = LlamaConfig(vocab_size=32, context=32, d_model=16, d_ff=16, n_layers=1, n_heads=2, n_kv_heads=1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    heads = {"policy": "lm", "ref": "lm", "value": "scalar"}
    models = {role: build_model(config, ComputeConfig(dtype="float32"), mesh, head) for role, head in heads.items()}
    policy = models["policy"].init(jax.random.key(0))
    policy = {**policy, "unembed": 15 * policy["unembed"]}  # peaked enough to end now and then
    params = {"policy": policy, "ref": policy, "value": models["value"].init(jax.random.key(1))}
    algo = build_ppo(PpoConfig(), models, temperature=0.7)
    assert algo.prepare is not None
    source = RolloutSource(
        RolloutConfig(prompts=4, n=2, max_new_tokens=8, temperature=0.7, epochs=2, rewards=REWARDS),
        [Prompt(ids=(1, *range(3, 3 + i)), said="", origin="") for i in range(4)],
        sampler=Sampler(
            models["policy"], mesh, SamplingConfig(temperature=0.7), stop_ids=[END], context=32, slots=2, cache_step=16
        ),
        policy_weights=lambda state: state.params["policy"],
        to_text=lambda ids: " ".join(map(str, ids)),
        scorers={"grade": grade},
        prepare=jax.jit(lambda state, rows: algo.prepare(state.params, rows)),  # type: ignore[misc]
        batch_size=4,
        micro_batches=1,
        sharding=NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)),
        context=32,
        seed=3,
    )
    return source, algo, TrainState(jnp.int32(0), params, {}, {})  # type: ignore[arg-type]


def test_real_answers_are_what_the_algorithm_takes_them_for(trained: Any) -> None:
    """Sampler and trainer agree, the KL to oneself is 0, the reward is at the last real token.

    Ratios are 1 until the first update of a round, and not after it, in either epoch; and 1 again in the next round.
    """
    source, algo, state = trained
    metrics_of = jax.jit(lambda params, batch: {k: m.total / m.count for k, m in algo.loss(params, batch)[1].items()})
    params = dict(state.params)
    batches, seen = [], []
    for _ in range(5):  # two epochs of two mini-batches, and the next round
        batch, metrics = source.next(state.replace(params=params))
        batches.append(jax.tree.map(lambda x: x[0], batch))
        seen.append({"round": metrics["round"], **metrics_of(params, batches[-1])})
        if len(batches) == 1:
            params["policy"] = {**params["policy"], "unembed": 1.3 * params["policy"]["unembed"]}
    assert [each["round"] for each in seen] == [0, 0, 0, 0, 1]
    assert seen[0]["sampler_logp_diff"] < 1e-5
    assert [float(each["kl"]) for each in seen[:4]] == [0.0] * 4
    assert seen[4]["kl"] != 0.0
    far = [abs(float(each["ratio"]) - 1) for each in seen]
    assert max(far[0], far[4]) < 1e-5
    assert min(far[1:4]) > 1e-3
    assert min(float(each["clip_fraction"]) for each in seen[1:4]) > 0
    ends = [at_last_token(batch, row) for batch in batches[:2] for row in range(4)]
    assert True in ends
    assert False in ends


def at_last_token(batch: Any, row: int) -> bool:
    """Whether the answer of the row ended by itself, its reward having come with its last real token."""
    weights_T = np.asarray(batch.tokens.weights_BT)[row]
    last = int(np.flatnonzero(weights_T)[-1])
    assert float(batch.return_BT[row, last]) == pytest.approx(float(batch.score_B[row]), abs=1e-5)
    assert not np.asarray(batch.return_BT)[row, last + 1 :].any()
    ended = int(batch.tokens.targets_BT[row, last]) == END
    assert float(batch.ended_B[row]) == ended
    assert weights_T.sum() < 8 if ended else weights_T.sum() == 8
    return ended


def test_a_prompt_about_safety_takes_the_safety_reward() -> None:
    """And so does an answer that seems unsafe, whatever it was asked; tags travel with the prompts."""
    parts = {name: ModelRewardConfig(path=name) for name in ("helpfulness", "safety")}
    tagged = [replace(prompt, safety=i % 2 == 0) for i, prompt in enumerate(PROMPTS)]

    def safety(prompts: Any, texts: Any) -> np.ndarray:
        return 3 - 6 * grade(prompts, texts)  # below -1.73, which is low, where the grade is above .79

    source = new(
        scorers={"helpfulness": grade, "safety": safety},
        rewards=RewardsConfig(parts=parts, combine="safety_first"),
        prompts_given=tagged,
        batch_size=8,
        samples=8,
        samples_every=1,
    )
    rows: list[Any] = []
    source.on_samples = rows.extend
    for _ in range(3):
        source.next(state_of(0))
        source.next(state_of(0))
    kinds = set()
    for row in rows:
        is_tagged, is_low = int(row["prompt"][1:]) % 2 == 0, row["parts"]["safety"] < np.log(0.15 / 0.85)
        kinds.add((is_tagged, bool(is_low)))
        assert row["reward"] == row["parts"]["safety" if is_tagged or is_low else "helpfulness"]
    assert len(kinds) == 4


def test_an_answer_without_its_end_is_worth_what_the_rule_says() -> None:
    rewards = RewardsConfig(parts={"grade": TaskRewardConfig()}, missing_end="replace", missing_end_value=-1.5)
    batch, _ = new(rewards=rewards, batch_size=8).next(state_of(0))
    score_B, ended_B = np.asarray(batch.score_B)[0], np.asarray(batch.ended_B)[0] > 0
    assert 0 < ended_B.sum() < 8
    assert (score_B[~ended_B] == -1.5).all()
    assert (score_B[ended_B] >= 0).all()


def test_each_answer_is_in_one_mini_batch_of_each_epoch() -> None:
    source, whole = new(micro_batches=2), new(batch_size=8, epochs=1)
    everything = sorted(rows_of(whole.next(state_of(0))[0]))
    epochs = []
    for _ in range(2):
        batches = [source.next(state_of(0))[0] for _ in range(2)]
        assert all(batch.score_B.shape == (2, 2) for batch in batches)
        epochs.append([row for batch in batches for row in rows_of(batch)])
        assert sorted(epochs[-1]) == everything
    assert epochs[0] != epochs[1]
    batch, metrics = source.next(state_of(0))
    assert metrics["round"] == 1.0
    assert not set(rows_of(batch)) & set(everything)  # other samples, of other prompts


def test_all_fields_of_a_row_stay_together() -> None:
    batch, _ = new(epochs=1).next(state_of(0))
    weights_BT = np.asarray(batch.tokens.weights_BT)
    np.testing.assert_array_equal(batch.advantage_BT, np.asarray(batch.score_B)[..., None] * weights_BT)
    np.testing.assert_array_equal(np.asarray(batch.logp_BT) < 0, weights_BT > 0)
    text = [" ".join(map(str, np.asarray(batch.tokens.targets_BT)[0, i][weights_BT[0, i] > 0])) for i in range(4)]
    np.testing.assert_array_equal(np.asarray(batch.score_B)[0], grade(None, text))


def test_without_shuffling_rows_stay_as_they_stand() -> None:
    source = new(shuffle=False, epochs=1)
    groups = [source.next(state_of(0))[0].group_B.tolist() for _ in range(2)]
    assert groups == [[[0, 0, 1, 1]], [[2, 2, 3, 3]]]


def test_prompts_come_once_a_pass_in_an_order_of_their_place_alone() -> None:
    order = drawn(6, 3, 0, 30)
    assert [sorted(order[i : i + 6]) for i in range(0, 30, 6)] == [list(range(6))] * 5
    assert len({tuple(order[i : i + 6]) for i in range(0, 30, 6)}) > 1
    assert drawn(6, 3, 10, 9) == order[10:19]
    assert drawn(6, 4, 0, 30) != order


@pytest.mark.parametrize("served", [0, 1, 2, 3, 4, 5])
def test_a_run_that_goes_on_has_the_same_bits(served: int, tmp_path: Path) -> None:
    """Killed before, amid and after a round, through a real checkpoint; weights move with every update."""
    rewards = RewardsConfig(parts={"grade": TaskRewardConfig()}, normalise="running")
    options = {"rewards": rewards, "kl": KlConfig(target=2.0, horizon=100), "stop_kl": 1.0}
    whole, source, restored = new(**options), new(**options), new(**options)

    def update(source: RolloutSource, number: int) -> Any:
        batch, metrics = source.next(state_of(number))
        source.observe(met(kl=2.0 + 0.01 * number, approx_kl_k3=0.01, entropy=1.0 + number))
        return batch, {name: x for name, x in metrics.items() if not name.endswith("_s")}

    for number in range(served):
        same(update(whole, number)[0], update(source, number)[0])
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    tx = optax.scale_by_adam()
    state = state_of(served, served)
    state = state.replace(opt_state=tx.init(state.params))  # type: ignore[attr-defined]
    checkpoints.save(state, source.state(), {})
    checkpoints.wait()
    saved = checkpoints.restore(served, state)
    checkpoints.close()
    assert bool(saved.arrays) == (served % 4 != 0)
    restored.restore(json.loads(json.dumps(saved.source)), saved.arrays)
    for number in range(served, 10):
        (a, told), (b, told_again) = update(whole, number), update(restored, number)
        same(a, b)
        assert told == told_again
    assert told["round"] == 2.0
    assert told["kl_coef"] != 0.05


def test_a_save_changes_nothing() -> None:
    plain, saving = new(kl=KlConfig(target=2.0)), new(kl=KlConfig(target=2.0))
    for number in range(9):
        found = [source.next(state_of(number)) for source in (plain, saving)]
        same(found[0][0], found[1][0])
        assert found[0][1]["kl_coef"] == found[1][1]["kl_coef"]
        for source in (plain, saving):
            source.observe(met(kl=float(number)))
        saving.state()


def test_other_prompts_or_cuts_are_refused_on_resume() -> None:
    source = new()
    source.next(state_of(0))
    saved, arrays = source.state()
    for other in (
        {"seed": 8},
        {"batch_size": 8},
        {"n": 4},
        {"prompts_given": PROMPTS[:-1]},
        {"max_new_tokens": 4},
        {"order": "other text"},
    ):
        with pytest.raises(UserError, match="rollouts changed"):
            new(**other).restore(saved, arrays)


def test_text_for_ptx_goes_on_with_the_updates() -> None:
    def text(number: int) -> Tokens:
        ids = jnp.full((1, 2, 3), number)
        return Tokens(ids, ids, ids, None, ids)

    source = new(pretrain=text)
    given = [int(source.next(state_of(0))[0].pretrain.inputs_BT[0, 0, 0]) for _ in range(5)]  # type: ignore[union-attr]
    assert given == [0, 1, 2, 3, 4]
    saved, arrays = source.state()
    assert not any(name.startswith("pretrain") for name in arrays)
    other = new(pretrain=text)
    other.restore(saved, {name: np.asarray(x) for name, x in arrays.items()})
    assert int(other.next(state_of(0))[0].pretrain.inputs_BT[0, 0, 0]) == 5  # type: ignore[union-attr]


def test_samples_come_every_few_rounds_with_the_update_that_learns_from_them_first() -> None:
    shown: list[list[Any]] = []
    source = new(samples_every=2, samples=3, epochs=1)
    source.on_samples = shown.append
    for number in range(8):  # two updates a round
        _, metrics = source.next(state_of(0))
        assert len(shown) == number // 4 + 1
        for row in shown[-1]:
            assert (row["round"], row["step"]) == (2 * (len(shown) - 1), 4 * (len(shown) - 1) + 1)
    assert metrics["round"] == 3.0
    assert [len(rows) for rows in shown] == [3, 3]
    assert shown[0][0].keys() == {"step", "round", "prompt", "completion", "reward", "parts", "ended", "tokens"}
    none = new(samples=0)
    none.on_samples = shown.append
    none.next(state_of(0))
    assert len(shown) == 2


def test_long_and_empty_prompts() -> None:
    long = Prompt(ids=tuple(range(20)), said="long", origin="f:9")
    with pytest.raises(UserError, match=r"f:9: the prompt has 20 tokens, and 15 is the most"):
        new(prompts_given=[*PROMPTS, long], context=20)
    source = new(prompts_given=[*PROMPTS, long], context=20, overlong="drop")
    batch, metrics = source.next(state_of(0))
    assert metrics["prompts_dropped"] == 1.0
    assert batch.tokens.inputs_BT.shape[-1] == 8
    assert new(max_prompt_tokens=10).next(state_of(0))[0].tokens.inputs_BT.shape[-1] == 16  # a multiple of 8
    assert new(max_prompt_tokens=10, context=15).next(state_of(0))[0].tokens.inputs_BT.shape[-1] == 15
    with pytest.raises(UserError, match="none of the 1 prompts"):
        new(prompts_given=[long], context=20, overlong="drop")
    with pytest.raises(UserError, match="f:3: the prompt is empty"):
        new(prompts_given=[Prompt(ids=(), said="", origin="f:3")])


def test_answers_that_cannot_be_cut_are_refused() -> None:
    """On two devices along fsdp: a mini-batch divides the round, and gives each device as many of a micro-batch."""
    for batch_size, micro_batches, least in ((3, 1, 2), (2, 2, 4), (16, 1, 2), (6, 3, 6), (1, 1, 2)):
        with pytest.raises(UserError, match=rf"8 answers.*batch_size={batch_size} in.*\n.*multiple of {least}$"):
            new(batch_size=batch_size, micro_batches=micro_batches)
    assert new(batch_size=2, epochs=3).updates_per_round == 12
    assert new(batch_size=8, micro_batches=4).tokens_per_step == 8 * (3 + 5)


def test_wrong_rewards_name_the_prompt() -> None:
    with pytest.raises(UserError, match="part grade gave int64"):
        new(lambda prompts, texts: np.ones(len(texts), np.int64)).next(state_of(0))

    def third_is_nan(prompts: Any, texts: Any) -> np.ndarray:
        return np.asarray([np.nan if i == 2 else 0.5 for i in range(len(texts))], np.float32)

    with pytest.raises(UserError, match=r"part grade gave nan for row 2 of 8 \(f:\d\)"):
        new(third_is_nan).next(state_of(0))


def test_rows_can_be_cut_along_t() -> None:
    """Into as many parts as `mesh.context`; the model's own context is the most, and is checked before."""
    assert [row_length(90, 512, parts) for parts in (1, 4, 3, 16)] == [96, 96, 96, 96]
    assert [row_length(97, 512, parts) for parts in (1, 4, 3, 16)] == [104, 104, 120, 112]
    assert row_length(510, 512, 3) == 512
