"""A pipeline that is killed once in every stage, as by the loss of its machine, ends as one that nobody disturbed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_llm.cli import main
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.saved import find_model
from jaxrl_llm.types import Params
from tests.launcher import environment, rows

PIPELINE = """
workdir: runs
stages:
  corpus:
    verb: data corpus
    args: ["{corpus}/corpus.jsonl", --documents, "1500", stories=0.1, difficulty=1, largest=20]
  tokenizer:
    verb: tokenizer train
    args: ["{corpus}/corpus.jsonl", --out, "{tokenizer}/tokenizer.model", --vocab-size, "360"]
  pretrain:
    verb: train
    config: pretrain.yaml
    set: {data.path: "{corpus}/corpus.jsonl", tokenizer.path: "{tokenizer}/tokenizer.model"}
  sft: {verb: train, config: sft.yaml, set: {init_from: "{pretrain}"}}
  reward: {verb: train, config: reward.yaml, set: {init_from: "{sft}"}}
  reject:
    verb: reject
    config: reject.yaml
    set: {models.policy.path: "{sft}", rewards.parts.likes.path: "{reward}"}
  ppo:
    verb: train
    config: ppo.yaml
    set: {init_from: "{sft}", rollout.rewards.parts.likes.path: "{reward}"}
  dpo: {verb: train, config: dpo.yaml, set: {init_from: "{ppo}", data.path: "{reject}/pairs.jsonl"}}
  evaluation:
    verb: evaluate
    args: ["{dpo}", --suite, task, --before, "{sft}", --task, arithmetic, difficulty=1, largest=20,
           --problems, "8", --max-new-tokens, "8", --out, "{evaluation}/task"]
"""
CONFIGS = {
    "common": """
workdir: none
seed: 3
training: {steps: 6, batch_size: 4, log_every: 1}
schedule: {kind: constant, lr: 1e-2, warmup: 0}
eval: {every: 8, scale_prompts: 8}
checkpoint: {every: 2, keep_last: 9}
logging: {tensorboard: false}
""",
    "pretrain": """
extends: common.yaml
model: {d_model: 16, d_ff: 24, n_layers: 1, n_heads: 2, n_kv_heads: 1, vocab_size: 360, context: 256}
tokenizer: {kind: sentencepiece}
data: {length: 64, holdout: 0.02}
""",
    "sft": """
extends: common.yaml
eval: {tasks: {sums: {task: {kind: arithmetic, difficulty: 1, largest: 20}, problems: 8, max_new_tokens: 8, slots: 8}}}
algo: {kind: sft}
data: {kind: chat, path: sft.jsonl, length: 256, holdout: 0.2}
""",
    "reward": """
extends: common.yaml
algo: {kind: reward}
data: {kind: preferences, path: pairs.jsonl, holdout_rows: 8, length: 256}
""",
    "reject": """
workdir: none
prompts: {task: {kind: arithmetic, difficulty: 1, largest: 20}, problems: 48}
models: {policy: {path: none}}
sampling: {n: 2, max_new_tokens: 8, slots: 8, prompts: 4}
rewards: {parts: {likes: {kind: model, path: none}}}
keep: {ended: false}
pairs: {kind: best_worst}
""",
    "ppo": """
extends: common.yaml
algo: {kind: ppo}
training: {steps: 8}
data: {kind: prompts, task: {kind: arithmetic, difficulty: 1, largest: 20}, problems: 32}
rollout:
  prompts: 16
  max_new_tokens: 8
  slots: 8
  samples_every: 1
  rewards: {parts: {likes: {kind: model, path: none}}, normalise: running}
""",
    "dpo": """
extends: common.yaml
algo: {kind: dpo}
data: {kind: preferences, holdout_rows: 8, length: 256}
""",
    "p": PIPELINE,
}
ROOT = Path(__file__).parents[2]
TRAINED = ("pretrain", "sft", "reward", "ppo", "dpo")
WRITTEN = (
    "corpus/corpus.jsonl",
    "tokenizer/tokenizer.model",
    *(f"reject/{name}.jsonl" for name in ("pool", "sft", "pairs")),
    "ppo/samples.jsonl",
    "evaluation/task/scores.jsonl",
)
SPEEDS = {"tokens_per_s", "tflops", "memory_gib", "sample_s", "score_s", "prepare_s", "data_wait_ms", "step_ms"}
# A file that is there while a stage works, in its directory or the pipeline's; those that train tell how far they are.
WORKING = {
    "corpus": "corpus/corpus.jsonl.draft",
    "tokenizer": "logs/tokenizer.txt",
    **dict.fromkeys(("pretrain", "sft", "reward")),
    "reject": "reject/samples/policy/00001.jsonl",
    **dict.fromkeys(("ppo", "dpo")),
    "evaluation": "evaluation/.task.partial",
}


def test_killed_in_every_stage_it_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        write_configs(folder)
    end(undisturbed)
    for stage in WORKING:
        kill_amid(stage, killed)
    end(killed)

    ours, theirs = killed / "runs", undisturbed / "runs"
    assert figures(ours) == figures(theirs)
    for name in WRITTEN:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    for name in TRAINED:
        assert metrics(ours / name) == metrics(theirs / name), name
        jax.tree.map(np.testing.assert_array_equal, weights(ours / name), weights(theirs / name))
        assert "resuming from step" in (ours / f"logs/{name}.txt").read_text()
    # Whose command cannot go on with what it left begins anew; what there was is not removed, but set aside.
    assert {path.name for path in ours.iterdir()} - {path.name for path in theirs.iterdir()} == {
        "corpus.1",
        "evaluation.1",
    }


def write_configs(folder: Path) -> None:
    """The pipeline in p.yaml, and all that it reads."""
    folder.mkdir()
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text)
    for kind in ("sft", "pairs"):
        words = ["--rows", kind, "-n", "60", "difficulty=1", "largest=20"]
        assert main(["data", "task", "arithmetic", str(folder / f"{kind}.jsonl"), *words]) == 0


def start(folder: Path) -> subprocess.Popen[bytes]:
    """`jaxrl-llm run p.yaml` there, the head of a group of processes; what it says goes to said.txt."""
    env = environment() | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # what was compiled once is not compiled again
    with (folder / "said.txt").open("ab") as file:
        command = [sys.executable, "-m", "jaxrl_llm", "run", "p.yaml"]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True)


def end(folder: Path) -> None:
    """Run the pipeline to its end."""
    assert start(folder).wait(timeout=300) == 0, (folder / "said.txt").read_text()


def kill_amid(stage: str, folder: Path) -> None:
    """Run the pipeline, and kill it and the stage with it when that has begun its work."""
    process, runs, deadline = start(folder), folder / "runs", time.monotonic() + 200
    try:
        while not works(stage, runs):
            assert process.poll() is None, (folder / "said.txt").read_text()
            assert time.monotonic() < deadline, f"{stage} does not begin"
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (runs / stage / ".done.json").exists(), f"{stage} was done before it was killed: give it more to do"


def works(stage: str, runs: Path) -> bool:
    """Whether it is amid its work; of training, past a checkpoint."""
    file = WORKING[stage]
    return any(row["step"] >= 5 for row in rows(runs / stage)) if file is None else (runs / file).exists()


def figures(runs: Path) -> dict[str, Any]:
    """Of the report, all but the times."""
    said = json.loads((runs / "report.json").read_text())
    assert said["done"]
    return {name: {key: x for key, x in each.items() if key != "seconds"} for name, each in said["stages"].items()}


def metrics(run: Path) -> list[dict[str, Any]]:
    """Every row of training, but how fast it was; and of what was evaluated before and after."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: x for name, x in json.loads(line).items() if name not in SPEEDS} for line in lines]


def weights(run: Path) -> list[Params]:
    """Of the newest checkpoint."""
    saved, mesh = find_model(run), make_mesh(MeshConfig())
    return [saved.weights(role, mesh) for role in saved.card.heads]
