"""Runs of seconds of every stage: a model of a few thousand weights, some dozens of examples made here.

In one process, and on one of its simulated devices unless more are asked for: what is compiled is what takes time.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
import yaml

from jaxrl_llm import stage
from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.begin import begin
from jaxrl_llm.config import Config, load
from jaxrl_llm.data.groups import GroupStore
from jaxrl_llm.datasets import Datasets, open_datasets
from jaxrl_llm.heldout import make_evaluation, make_judge
from jaxrl_llm.types import Model, Params, TrainState
from tests.launcher import rows

N = 48  # examples of each file
WORDS = ["ash", "bay", "cod", "dew", "elm", "fig", "gnu", "hay", "ivy", "jay", "kid", "low", "mud", "nut", "oak", "pea"]
RATINGS = ("significantly better", "better", "slightly better", "negligibly better / unsure")

COMMON = """
seed: 3
training: {steps: 4, batch_size: 8, log_every: 1}
schedule: {kind: constant, lr: 1e-2, warmup: 0}
eval: {every: 0, scale_prompts: 16}
checkpoint: {every: 2, keep_last: 9}
logging: {tensorboard: false, quiet: true}
"""
MODEL = {"d_model": 32, "d_ff": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 260, "context": 128}


def write_examples(folder: Path) -> dict[str, str]:
    """Files of all kinds in `folder`: name -> path.  The same rows always; answers of unequal length."""
    rng = random.Random(7)
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in ("chat", "pairs", "ranked", "judged", "asks")}
    for i in range(N):
        ask, good, bad = (" ".join(rng.choices(WORDS, k=rng.randint(1, n))) for n in (4, 3, 3))
        answers = list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randint(1, 2))) for _ in range(9)))
        turn = {"role": "user", "content": ask}, {"role": "assistant", "content": good}
        made["chat"].append({"messages": [*turn] * (1 + i % 2)})
        made["pairs"].append(
            {
                "prompt": ask,
                "chosen": good + "!?"[i % 5 == 0],  # which tells most pairs apart, not all
                "rejected": bad + "?!"[i % 5 == 0],
                "rating": RATINGS[i % 4],
                "safe": [True, i % 3 > 0],
                "subset": ("sea", "land", "air")[i % 3],
            }
        )
        made["asks"].append({"prompt": [{"role": "user", "content": ask}], "safety": i % 4 == 0})
        made["ranked"].append({"prompt": ask, "answers": answers[: 2 + i % 3], "ranks": [2, 1, 2, 3][: 2 + i % 3]})
        made["judged"].append({"prompt": f"{ask} {i // 2}", "completion": f"{good}." if i % 2 else bad, "label": i % 2})
    paths = {}
    for name, examples in made.items():
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(example) + "\n" for example in examples))
    paths["text"] = str(folder / "text.txt")
    Path(paths["text"]).write_text(" ".join(rng.choices(WORDS, k=3000)))
    return paths


def stages(files: Mapping[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    """What each stage has of its own, by name; runs lie in `folder`."""

    def preferences(name: str, length: int = 64) -> dict[str, Any]:
        return {"kind": "preferences", "path": files[name], "length": length, "holdout": 0.25}

    def on(data: dict[str, Any], **algo: Any) -> dict[str, Any]:
        return {"algo": algo, "data": data}

    def rollouts(parts: dict[str, Any], **rollout: Any) -> dict[str, Any]:
        sizes = {"prompts": 8, "max_new_tokens": 12, "slots": 4, "samples_every": 1, "rewards": {"parts": parts}}
        return {"training": {"steps": 8, "batch_size": 4, "log_every": 1}, "rollout": sizes | rollout}

    rated = {"model": {"kind": "model", "path": str(folder / "reward"), "scale": "standardised"}}
    asks = {"kind": "prompts", "path": files["asks"]}
    sums = {"kind": "prompts", "task": {"kind": "arithmetic", "difficulty": 1}, "problems": 16}
    solved = {"sums": {"task": {"kind": "arithmetic"}, "problems": 8, "max_new_tokens": 12, "slots": 8}}
    pairs, judged, chat = preferences("pairs"), preferences("judged"), {"kind": "chat", "path": files["chat"]}
    return {
        "pretrain": on({"path": files["text"], "length": 64}, kind="pretrain") | {"model": MODEL},
        "sft": on({**chat, "length": 96, "holdout": 0.25}, kind="sft"),
        "reward": on(pairs, kind="reward", margin="large", centring=0.01, safety_weight=0.5),
        "ranked": on(preferences("ranked"), kind="reward"),
        "pointwise": on(judged, kind="reward", loss="pointwise"),
        "dpo": on(pairs, kind="dpo"),
        "dpo_cached": on(pairs, kind="dpo", reference="cached"),
        "kto": on(judged, kind="kto"),
        "kto_cached": on(judged, kind="kto", reference="cached"),
        "simpo": on(pairs, kind="simpo"),
        "orpo": on(pairs, kind="orpo"),
        "ppo": on(asks, kind="ppo", entropy_bonus=0.01) | rollouts(rated, epochs=2, kl={"coef": 0.1, "target": 0.01}),
        "rloo": on(asks, kind="rloo") | rollouts(rated, prompts=4, n=2),
        "grpo": on(sums, kind="grpo")
        | {"model": {"context": 256}, "eval": {"tasks": solved}}
        | rollouts({"grade": {"kind": "task"}, "short": {"kind": "length"}}, prompts=2, n=4),
    }


def lora(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The same with adapters."""
    return {**stage, "trainable": {"kind": "lora", "rank": 4, "alpha": 8.0}}


def parts(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The same, of which the last layer and the head are trained."""
    return {**stage, "trainable": {"kind": "parts", "layers": "last 1", "head": True}}


@dataclass(frozen=True)
class Runs:
    """Every stage trained once, when it is first asked for: the pretrained model, SFT from it, the others from that."""

    folder: Path
    stages: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def new(folder: Path) -> "Runs":
        """None has run."""
        plain = stages(write_examples(folder), folder)
        divided = {f"{name}_lora": lora(plain[name]) for name in ("sft", "reward", "dpo", "ppo")}
        divided |= {f"{name}_parts": parts(plain[name]) for name in ("sft", "reward", "dpo")}
        return Runs(folder, plain | divided)

    def __call__(self, name: str) -> Path:
        """The run directory of a stage, not to be written to."""
        if not (self.folder / name).exists():
            train(self.config(name))
        return self.folder / name

    def config(self, name: str, path: Path | None = None, **more: Any) -> Path:
        """The config of a stage, beside its run, or to be run elsewhere."""
        base = None if name == "pretrain" else "pretrain" if name.startswith("sft") else "sft"
        if "rollout" in self.stages[name]:
            self("reward")  # rates the answers
        before = {} if base is None else {"init_from": str(self(base))}
        return write_config(path or self.folder / f"{name}.yaml", self.stages[name], **before | more)

    def opened(self, name: str, *overrides: str, devices: int = 1) -> "Opened":
        """All that `train` makes before its loop."""
        return Opened.of(load(self.config(name, self.folder / "opened" / f"{name}.yaml"), overrides), devices)


@dataclass(frozen=True)
class Opened:
    """A run that has not begun."""

    config: Config
    parts: Assembly
    data: Datasets
    state: TrainState
    fingerprint: str  # of the weights it begins with

    @staticmethod
    def of(config: Config, devices: int) -> "Opened":
        """At step 0."""
        start, assembly = begin(config), assemble(config, jax.devices()[:devices])
        data = open_datasets(config, assembly, start)
        return Opened(
            config, assembly, data, assembly.new_state(start.weights(assembly.mesh), config.seed), start.fingerprint()
        )

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """The figures of every held-out set, before the first step."""
        judge = make_judge(self.parts) if self.parts.algo.scores is not None else None
        self.data.source.close()
        held_out, references = self.data.held_out, self.data.references
        return make_evaluation(self.config, self.parts, held_out, references, judge)(self.state)

    def steps(self, n: int) -> list[dict[str, float]]:
        """The metrics of the first steps."""
        state, found = self.state, []
        for _ in range(n):
            state, metrics = self.parts.step(state, self.data.source.next(state)[0])
            found.append({name: float(value) for name, value in jax.device_get(metrics).items()})
        self.data.source.close()
        return found


def write_config(path: Path, stage: Mapping[str, Any], **more: Any) -> Path:
    """A config of a stage, whose run is `path` without its ending."""
    config = yaml.safe_load(COMMON) | {"workdir": str(path.with_suffix(""))} | stage | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def train(config: Path, *overrides: str, devices: int = 1, sample: bool = False) -> Path:
    """Train in this process, on so many of its devices; the run directory."""

    def on_devices(config: Config) -> Assembly:
        return assemble(config, jax.devices()[:devices])

    no_sample = patch.object(stage, "write_sample", stage.write_sample if sample else lambda *_: None)
    no_report = patch.object(stage, "write_report", stage.write_report if sample else lambda *_: None)
    with patch.object(stage, "assemble", on_devices), no_sample, no_report:
        return stage.train(str(config), overrides)


def answer_scores(model: Model, params: Params, store: GroupStore) -> np.ndarray:
    """[A], by plain means: each answer a row of its own, of which the last token's score, or the log-probability."""
    texts = []
    for example in range(len(store.prompt_lengths)):
        for answer in range(int(np.diff(store.answer_starts)[example])):
            texts.append((store.prompt(example), *store.answer(example, answer)))
    ids_AT = np.zeros((len(texts), max(len(p) + len(ids) for p, ids, _ in texts)), np.int32)
    trained_AT = np.zeros(ids_AT.shape)
    for row, (prompt, ids, weights) in enumerate(texts):
        ids_AT[row, : len(prompt) + len(ids)] = [*prompt, *ids]
        trained_AT[row, len(prompt) : len(prompt) + len(ids)] = weights
    if "score" in model.specs:
        return np.asarray(jax.jit(model.score)(params, ids_AT, np.asarray([len(p) + len(i) for p, i, _ in texts])))
    logp_ATV = jax.nn.log_softmax(jax.jit(model.logits)(params, ids_AT))[:, :-1]
    logp_AT = np.take_along_axis(np.asarray(logp_ATV), ids_AT[:, 1:, None], axis=2)[..., 0]
    return (logp_AT * trained_AT[:, 1:]).sum(axis=1)


def column(run: Path, name: str = "loss", split: str = "train") -> list[float]:
    """A metric of a run, step by step."""
    return [row[name] for row in rows(run, split)]
