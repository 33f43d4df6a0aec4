"""PPO, GRPO and RLOO as `train` runs them: prompts, answers, rewards and updates, and what of them is written down."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.assemble import weights_template
from jaxrl_llm.cli import main
from jaxrl_llm.data.tokenizers import train_sentencepiece
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.tasks import corpus
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.launcher import rows
from tests.tiny import Runs, column, train

ROLLOUTS = ("ppo", "grpo", "rloo")
OF_ALL = {"score", "score_std", "kl", "kl_k3", "ratio", "approx_kl", "entropy", "length", "ended"}
OF_ALL |= {"sampler_logp_diff", "kl_coef", "round", "sample_s", "score_s", "prepare_s", "occupancy", "policy_loss"}
METRICS = {
    "ppo": OF_ALL
    | {"clip_fraction", "value_loss", "explained_variance", "grad_norm/policy", "grad_norm/value", "reward/model"},
    "grpo": OF_ALL | {"clip_fraction", "kl_loss", "equal_groups", "reward/grade", "reward/short"},
    "rloo": OF_ALL | {"equal_groups", "reward/model"},
}


@pytest.mark.parametrize("name", ROLLOUTS)
def test_every_algorithm_trains_logs_and_begins_at_its_reference(runs: Runs, name: str) -> None:
    found = rows(runs(name))
    assert [row["step"] for row in found] == list(range(1, 9))
    assert METRICS[name] <= found[0].keys()
    assert all(math.isfinite(row[key]) for row in found for key in METRICS[name] - {"explained_variance"})
    first = found[0]
    assert first["kl"] == 0.0
    assert first["kl_k3"] == 0.0
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["sampler_logp_diff"] < 1e-5
    assert column(runs(name), "kl")[-1] != 0.0


def test_ratios_are_one_until_something_was_learnt(runs: Runs) -> None:
    """Two epochs of two mini-batches: the first one of a round is the policy that wrote, those after it are not."""
    found = rows(runs("ppo"))
    assert [row["round"] for row in found] == [0, 0, 0, 0, 1, 1, 1, 1]
    for row in found:
        far = max(abs(row["ratio"] - 1), row["approx_kl_k3"])
        assert far < 1e-5 if row["step"] % 4 == 1 else far > 1e-5, row["step"]


def test_the_samples_are_kept_with_their_rewards(runs: Runs) -> None:
    kept = [json.loads(line) for line in (runs("ppo") / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in kept] == [1] * 8 + [5] * 8
    first = [row for row in kept if row["round"] == 0]
    assert np.mean([row["reward"] for row in first]) == pytest.approx(rows(runs("ppo"))[0]["score"], abs=1e-5)
    for row in first:
        assert row["prompt"][0]["role"] == "user"
        assert row["reward"] == row["parts"]["model"] != int(row["reward"])
        assert row["ended"] == (len(row["tokens"]) < 12 or row["tokens"][-1] in (257, 258))


def test_the_coefficient_follows_the_kl(runs: Runs) -> None:
    """Ziegler et al.: 8 answers and a horizon of 10,000; the first round is at the reference, so its KL is below."""
    first, second = (rows(runs("ppo"))[step]["kl_coef"] for step in (0, 4))
    assert first == 0.1
    assert second == pytest.approx(0.1 * (1 - 0.2 * 8 / 10_000))


def test_a_policy_is_opened_and_its_critic_is_no_reward_model(runs: Runs) -> None:
    assert open_model(runs("ppo")).head == "lm"
    with pytest.raises(UserError, match="no reward model"):
        open_model(runs("ppo"), head="scalar")


def test_a_task_is_evaluated_before_and_after(runs: Runs) -> None:
    found = rows(runs("grpo"), "sums")
    assert [row["step"] for row in found] == [0, 8] or [row["step"] for row in found] == [8]
    assert {"accuracy", "parsed", "ended", "length"} <= found[-1].keys()


def params_of(run: Path, step: int, role: str) -> Any:
    """Weights as a checkpoint has them."""
    opened = find_model(run / "checkpoints" / str(step))
    return jax.device_get(opened.weights(role, open_model(run).mesh))


def moved(a: Any, b: Any) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_critic_of_its_own_learns_alone_first(runs: Runs, tmp_path: Path) -> None:
    """Started from a reward model, at its own rate, while the policy stands still."""
    config = runs.config("ppo", tmp_path / "warm.yaml")
    reward = runs("reward")
    run = train(config, f"critic.init_from={reward}", "critic.warmup=4", "critic.lr=1e-3", "checkpoint.every=2")
    started = jax.device_get(find_model(reward).weights("reward", open_model(reward, head="scalar").mesh))
    policy = jax.device_get(find_model(runs("sft")).weights("policy", open_model(runs("sft")).mesh))
    assert moved(params_of(run, 4, "policy"), policy) == 0
    assert moved(params_of(run, 6, "policy"), policy) > 1e-4
    assert 0 < moved(params_of(run, 2, "value")["layers"], started["layers"]) < 1e-2
    found = rows(run)
    assert [row["lr/policy"] > 0 for row in found] == [False] * 4 + [True] * 4
    assert all(row["lr/value"] == pytest.approx(1e-3) for row in found)
    assert found[0]["value_loss"] != rows(runs("ppo"))[0]["value_loss"]  # values are not 0 from the start


def test_a_fresh_head_values_nothing(runs: Runs, tmp_path: Path) -> None:
    for name, head, zero in (("zero", "zero", True), ("random", "random", False)):
        config = runs.config("ppo", tmp_path / f"{name}.yaml")
        run = train(config, f"critic.head={head}", "checkpoint.every=1", "training.steps=1")
        whole = params_of(run, 1, "value")["score"]
        step = rows(run)[0]["lr"] * 1.01 + 1e-6  # Adam moves a weight no further
        assert (np.abs(whole).max() <= step) == zero


def test_the_average_is_what_is_evaluated_and_opened(runs: Runs, tmp_path: Path) -> None:
    run = train(runs.config("ppo", tmp_path / "ema.yaml"), "training.ema=0.5", "checkpoint.every=1", "training.steps=3")
    checkpoints = Checkpoints(run, None)
    opened = open_model(run)
    specs = {role: llama_specs(opened.config.model_of(role), head) for role, head in opened.card.heads.items()}
    template = {role: weights_template(tree, opened.mesh) for role, tree in specs.items()}
    average = params_of(runs("sft"), 4, "policy")
    for step in (1, 2, 3):
        now = jax.device_get(checkpoints.restore_item(step, "params", template)["policy"])
        average = jax.tree.map(lambda a, w: 0.5 * a + 0.5 * w, average, now)
    assert moved(average, params_of(run, 3, "policy")) < 1e-6
    assert moved(now, params_of(run, 3, "policy")) > 1e-4
    assert column(run) == column(runs("ppo"))[:3]  # training itself does not see it


def test_text_is_kept_in_mind(runs: Runs, tmp_path: Path) -> None:
    text = runs.stages["pretrain"]["data"]["path"]
    config = runs.config("ppo", tmp_path / "ptx.yaml")
    run = train(config, "algo.ptx_weight=27.8", f"data.pretrain.path={text}", "data.pretrain_length=64")
    found = column(run, "ptx_nll")
    assert found[-1] < found[0]
    assert column(run, "ratio")[0] == pytest.approx(1, abs=1e-5)


def test_the_penalty_follows_how_far_updates_went(runs: Runs, tmp_path: Path) -> None:
    """Twice as much after a round that ended far from the policy that wrote, half after one that stayed near."""
    for target, second in ((1e-12, 2.0), (1e6, 0.5)):
        config = runs.config("ppo", tmp_path / f"penalty{second}.yaml")
        run = train(config, "algo.surrogate=kl_penalty", f"rollout.penalty.target={target}")
        assert [row["penalty_coef"] for row in rows(run)] == [1.0] * 4 + [second] * 4
        assert "clip_fraction" not in rows(run)[0]


def test_a_round_that_went_too_far_ends(runs: Runs, tmp_path: Path) -> None:
    run = train(runs.config("ppo", tmp_path / "stop.yaml"), "rollout.stop_kl=1e-9", "schedule.lr=0.1")
    found = rows(run)
    assert found[-1]["round"] > 1
    given = 0  # updates of this round
    for now, after in itertools.pairwise(found):
        given += 1
        ends = now["approx_kl_k3"] > 1e-9 or given == 4
        assert (after["round"] > now["round"]) == ends, now["step"]
        given *= not ends


def test_adapters_have_their_base_as_reference(runs: Runs) -> None:
    found = rows(runs("ppo_lora"))
    assert found[0]["kl"] == 0.0
    assert found[-1]["kl"] != 0.0
    moved_by = moved(params_of(runs("ppo_lora"), 8, "policy"), params_of(runs("sft"), 4, "policy"))
    assert 0 < moved_by < 1  # opened with its adapters added in
    assert open_model(runs("ppo_lora")).head == "lm"


def test_adapters_of_a_policy_leave_without_its_critic(runs: Runs, tmp_path: Path) -> None:
    assert main(["export", str(runs("ppo_lora")), str(tmp_path / "out"), "--adapter"]) == 0
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_where_parts_are_trained_the_critic_has_a_head(runs: Runs, tmp_path: Path) -> None:
    """One of zeros that stays would value nothing, and the layers below it would learn nothing."""
    config = runs.config("ppo", tmp_path / "parts.yaml")
    run = train(config, "trainable={kind: parts, layers: last 1}", "training.steps=2")
    assert column(run, "grad_norm/value")[0] > 0
    assert np.abs(params_of(run, 2, "value")["score"]).max() > 0
    assert moved(params_of(run, 2, "policy")["embed"], params_of(runs("sft"), 4, "policy")["embed"]) == 0
    more = runs.config("ppo", tmp_path / "more.yaml", init_from=str(run))
    assert rows(train(more, "training.steps=1"))[0]["kl"] == 0.0


def test_a_critic_of_another_size_comes_and_goes(runs: Runs, tmp_path: Path) -> None:
    """From a reward model that is smaller; what starts from that run takes the policy, or both."""
    small = {"d_model": 16, "d_ff": 24, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 260, "context": 128}
    judge = train(runs.config("reward", tmp_path / "judge.yaml", init_from=None, model=small), "training.steps=1")
    critic = f"critic.init_from={judge}"
    run = train(runs.config("ppo", tmp_path / "small.yaml"), critic, "training.steps=2", "checkpoint.every=2")
    assert params_of(run, 2, "value")["embed"].shape == (260, 16)
    for name in ("ppo", "rloo"):
        config = runs.config(name, tmp_path / f"{name}.yaml", init_from=str(run))
        assert rows(train(config, "training.steps=1"))[0]["kl"] == 0.0
    both = runs.config("ppo", tmp_path / "both.yaml")
    assert rows(train(both, f"critic.init_from={run}", "training.steps=1"))[0]["ratio"] == pytest.approx(1, abs=1e-5)


def test_an_optimizer_of_other_roles_is_refused(runs: Runs, tmp_path: Path) -> None:
    for name, start, more in (
        ("ppo", "sft", []),
        ("rloo", "ppo", []),
        ("ppo", "ppo", [f"critic.init_from={runs('reward')}"]),
    ):
        config = runs.config(name, tmp_path / f"{name}.yaml", init_from=str(runs(start)))
        with pytest.raises(UserError, match="optimizer state is of no use"):
            train(config, "init_optimizer=true", *more)


def test_a_reward_model_that_changed_stops_a_run(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs("reward"), tmp_path / "judge")
    part = f"rollout.rewards.parts.model.path={tmp_path / 'judge'}"
    config = runs.config("ppo", tmp_path / "run.yaml")
    train(config, part, "training.steps=2")
    shutil.rmtree(tmp_path / "judge" / "checkpoints" / "4")  # now its newest is step 2
    with pytest.raises(UserError, match="a reward model"):
        train(config, part, "training.steps=4")


def test_ppo_goes_on_with_the_critic_that_it_has(runs: Runs, tmp_path: Path) -> None:
    run = train(runs.config("ppo", tmp_path / "more.yaml", init_from=str(runs("ppo"))), "training.steps=1")
    assert rows(run)[0]["kl"] == 0.0  # the reference is what this run began with
    moved_by = moved(params_of(run, 1, "value"), params_of(runs("ppo"), 8, "value"))
    assert 0 < moved_by < 0.1


def test_a_wide_policy_learns_from_a_small_reward_model_that_reads_otherwise(runs: Runs, tmp_path: Path) -> None:
    """Twice as wide, with a tokenizer of its own: the answers' text is tokenised anew."""
    path = tmp_path / "m.model"
    train_sentencepiece(corpus(100, seed=0), 400, path)
    wide = {"vocab_size": 400, "d_model": 64, "d_ff": 96, "n_heads": 4, "n_kv_heads": 2, "context": 192}
    config = runs.config(
        "ppo",
        tmp_path / "wide.yaml",
        init_from=None,
        model=wide,
        tokenizer={"kind": "sentencepiece", "path": str(path)},
    )
    with pytest.raises(UserError, match="another tokenizer"):
        train(config)
    found = rows(train(config, "rollout.rewards.parts.model.retokenise=true"))
    assert found[0]["score_std"] > 0
    assert found[-1]["kl"] != 0
