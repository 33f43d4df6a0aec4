"""A whole pipeline that is killed once in every stage, as a machine is lost, ends as the undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxrl_llm.cli import main
from jaxrl_llm.saved import find_model
from tests.launcher import environment, rows
from tests.tiny import COMMON

ROOT, RUN = Path(__file__).parents[2], Path("runs/p")
TASK = {"kind": "arithmetic", "difficulty": 1, "largest": 20}
MODEL = {"d_model": 16, "d_ff": 24, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 320, "context": 256}
PIPELINE = """
workdir: runs/p
stages:
  corpus:
    verb: data corpus
    args: ["{corpus}/corpus.jsonl", --documents, "1500", stories=0.1, difficulty=1, largest=20]
  tokenizer:
    verb: tokenizer train
    args: ["{corpus}/corpus.jsonl", --out, "{tokenizer}/tokenizer.model", --vocab-size, "320"]
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
    args: ["{dpo}", --suite, task, --before, "{sft}", --problems, "8", --max-new-tokens, "8", --out, "{evaluation}/task"]
"""
TRAINED = ("pretrain", "sft", "reward", "ppo", "dpo")
WRITTEN = ["corpus/corpus.jsonl", "tokenizer/tokenizer.model", "evaluation/task/scores.jsonl"]
WRITTEN += [f"reject/{name}.jsonl" for name in ("pool", "sft", "pairs")]
# How fast it was, and what says how often it was started.
SPEEDS = {"tokens_per_s", "tflops", "memory_gib", "sample_s", "score_s", "prepare_s", "data_wait_ms", "step_ms"}


def logged(stage: str) -> bool:
    """Amid training, past the first checkpoint, of which it says so while the next is being written."""
    return any(row["step"] >= 5 for row in rows(RUN / stage))


# By stage, whether its work has begun.
BEGUN: dict[str, Callable[[], bool]] = {
    "corpus": (RUN / "corpus/corpus.jsonl.draft").exists,
    "tokenizer": (RUN / "logs/tokenizer.txt").exists,
    **{name: (lambda name=name: logged(name)) for name in TRAINED},  # type: ignore[misc]
    "reject": (RUN / "reject/samples/policy/00001.jsonl").exists,
    "evaluation": (RUN / "evaluation/.task.partial").exists,
}


def write_configs() -> None:
    """The pipeline and what it names, in the working directory."""
    for kind in ("sft", "pairs"):
        more = ["--rows", kind, "-n", "60", "difficulty=1", "largest=20"]
        assert main(["data", "task", "arithmetic", f"{kind}.jsonl", *more]) == 0
    tasks = {"sums": {"task": TASK, "problems": 8, "max_new_tokens": 8, "slots": 8}}
    common = yaml.safe_load(COMMON) | {"workdir": "none", "training": {"steps": 8, "batch_size": 4, "log_every": 1}}
    common |= {"eval": {"every": 8, "scale_prompts": 8}}
    graded = {"eval": {"every": 8, "tasks": tasks}}
    pairs = {"kind": "preferences", "holdout_rows": 8, "length": 256}
    rating = {"parts": {"likes": {"kind": "model", "path": "none"}}}
    stages: dict[str, dict[str, Any]] = {
        "pretrain": {"model": MODEL, "data": {"length": 64, "path": "none", "holdout": 0.02}, "tokenizer": {"kind": "sentencepiece"}},
        "sft": {"algo": {"kind": "sft"}, "data": {"kind": "chat", "path": "sft.jsonl", "length": 256, "holdout": 0.2}, **graded},
        "reward": {"algo": {"kind": "reward"}, "data": pairs | {"path": "pairs.jsonl"}},
        "ppo": {
            "algo": {"kind": "ppo"},
            "data": {"kind": "prompts", "task": TASK, "problems": 16},
            "rollout": {"prompts": 16, "max_new_tokens": 8, "slots": 8, "samples_every": 1, "rewards": rating},
            **graded,
        },
        "dpo": {"algo": {"kind": "dpo"}, "data": pairs},
    }
    for name, stage in stages.items():
        Path(f"{name}.yaml").write_text(json.dumps(common | stage))
    reject = {
        "workdir": "none",
        "prompts": {"task": TASK, "problems": 32},
        "models": {"policy": {"path": "none"}},
        "sampling": {"n": 2, "max_new_tokens": 8, "slots": 8, "prompts": 4},
        "rewards": rating,
        "keep": {"ended": False},
        "pairs": {"kind": "best_worst"},
    }
    Path("reject.yaml").write_text(json.dumps(reject))
    Path("p.yaml").write_text(PIPELINE)
