"""What does not fit where a policy learns from its own answers is said at its key, before anything is opened."""

from pathlib import Path

import pytest

from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError

PPO = """
workdir: run
model: {context: 128}
algo: {kind: ppo}
data: {kind: prompts, task: {kind: arithmetic}}
rollout: {prompts: 8, n: 2, max_new_tokens: 32, max_prompt_tokens: 64, rewards: {parts: {grade: {kind: task}}}}
training: {batch_size: 8}
"""
GRPO = "algo.kind=grpo"
CASES = {
    "rollout.rewards.parts: nothing rates": ["rollout.rewards.parts.grade=null"],
    "rollout.rewards.parts: nothing rates the answers": ["rollout.rewards.parts={short: {kind: length}}"],
    "rollout.rewards.parts.grade: is the grade of a task": ["data.task=null", "data.path=x"],
    "rollout.n: 1: algo.kind=grpo measures": [GRPO, "rollout.n=1"],
    "rollout.kl.target: 1, but algo.kl=none": [GRPO, "algo.kl=none", "rollout.kl.target=1.0"],
    "rollout.kl.coef: 0 stays 0": ["rollout.kl.coef=0", "rollout.kl.target=1.0"],
    "algo.surrogate: kl_penalty with one update a round": ["algo.surrogate=kl_penalty", "training.batch_size=16"],
    "training.batch_size: 5 does not divide": ["training.batch_size=5"],
    "rollout.max_new_tokens: 128 leave no room": ["rollout.max_new_tokens=128"],
    "rollout.max_prompt_tokens: with rollout.max_new_tokens they are 132": ["rollout.max_prompt_tokens=100"],
    "critic.model.vocab_size: 100 is too small": ["critic.model.vocab_size=100"],
    "critic.model.context: 95 is too small": ["critic.model.context=95"],
    "critic: is of algo.kind=ppo": [GRPO, "critic.lr=1e-3"],
    "trainable.dropout: 0.1 is not for rollouts": ["trainable={kind: lora, dropout: 0.1}"],
    "data: there are no prompts": ["data.task=null", "rollout.rewards.parts={rm: {kind: model, path: x}}"],
    "data.path: data.task asks its own": ["data.path=x"],
    "data.safety: is of data.path": ["data.safety=true"],
    "data.pretrain: is read by algo.kind=ppo": ["data.pretrain.path=x", "data.pretrain_length=64"],
    "algo.ptx_weight: 1 of the loss of text": ["algo.ptx_weight=1.0"],
    "data.pretrain_length: 512 is longer": ["algo.ptx_weight=1.0", "data.pretrain.path=x"],
    "compute.offload: frozen: nothing of this run": [GRPO, "algo.kl=none", "compute.offload=frozen"],
    "its reference is the base under the adapters": ["trainable.kind=lora", "compute.offload=frozen"],
    "data.kind: algo.kind=dpo reads data.kind=preferences": ["algo.kind=dpo"],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(PPO)
    return path


def test_the_config_itself_fits(config: Path) -> None:
    assert load(config).length == 96
    assert load(config, ["critic.model={vocab_size: 600, context: 96}"]).model_of("value").context == 96
    rated = "rollout.rewards.parts={rm: {kind: model, path: x}}"  # under adapters a reward model can wait
    assert load(config, ["trainable.kind=lora", "compute.offload=frozen", rated]).compute.offload == "frozen"


@pytest.mark.parametrize(("told", "overrides"), CASES.items())
def test_a_misfit_is_told_at_its_key(config: Path, told: str, overrides: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load(config, overrides)
    assert told in str(error.value)


def test_others_have_no_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("workdir: run\ndata: {path: x, length: 64}\n")
    with pytest.raises(UserError, match="rollout: is of what learns from its own answers"):
        load(path, ["rollout.n=2"])
    with pytest.raises(UserError, match="eval.tasks: are answered by a language model"):
        load(path, ["algo={kind: reward}", "data={kind: preferences}", "eval.tasks.a.task.kind=arithmetic"])
    assert "rollout" in load(path).idle
