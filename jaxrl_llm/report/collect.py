"""The figures of a report, as JSON, from the files of a run directory."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxrl_llm.plots import Curve, Curves
from jaxrl_llm.report.commands import commands
from jaxrl_llm.report.rollouts import gains, learnt, newest
from jaxrl_llm.training.console import ALIASES
from jaxrl_llm.training.writers import DETAILS, FACTS, QUARANTINE, SAMPLES, read_rows
from jaxrl_llm.types import Json

SHOWN = 3  # samples in the report: the last ones

# Keys of config.yaml that say what was run, where it has them.
CONFIG_KEYS = (
    "algo.kind",
    "algo.loss",
    "algo.beta",
    "algo.reference",
    "algo.margin",
    "algo.centring",
    "algo.safety_weight",
    "algo.clip",
    "algo.gamma",
    "algo.lam",
    "algo.kl",
    "init_from",
    "model.preset",
    "model.d_model",
    "model.n_layers",
    "model.n_heads",
    "model.vocab_size",
    "trainable.kind",
    "trainable.rank",
    "trainable.layers",
    "tokenizer.kind",
    "data.path",
    "data.task",
    "data.mix",
    "data.length",
    "rollout.prompts",
    "rollout.n",
    "rollout.max_new_tokens",
    "rollout.temperature",
    "rollout.epochs",
    "rollout.rewards.parts",
    "rollout.kl.coef",
    "rollout.kl.target",
    "training.batch_size",
    "optim.kind",
    "schedule.kind",
    "schedule.lr",
    "critic.init_from",
    "critic.lr",
    "training.ema",
    "seed",
)
RATES = ("tokens_per_s", "tflops", "peak_share", "step_ms", "data_wait_ms")

# Of a loss, by algo.kind; of those that are not here it is "per pair".
UNITS = {"pretrain": "nats per token", "sft": "nats per token", "kto": "per answer", "orpo": ""}
UNITS |= dict.fromkeys(("ppo", "grpo", "rloo"), "nats per token")  # of held-out text: their own losses say nothing


def curves(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """split -> metric -> (steps, values), by step; what is not a finite number is left out."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in map(named, rows):
        for name, value in row.items():
            if name not in ("step", "split") and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(row.get("split", "train"), {}).setdefault(name, []).append((row["step"], value))

    def arrays(pairs: list[tuple[int, float]]) -> Curve:
        steps, values = np.asarray(sorted(pairs), np.float64).T
        return steps, values

    return {split: {name: arrays(pairs) for name, pairs in metrics.items()} for split, metrics in points.items()}


def named(row: Mapping[str, Any]) -> Json:
    """The row with one name for one thing: what DPO and its kin call `rewards/accuracies` is an accuracy too."""
    return {ALIASES[name]: row[name] for name in ALIASES if name in row} | dict(row)


def collect(workdir: Path, rows: Iterable[Mapping[str, Any]]) -> Json:
    """All figures of the report; report.md is nothing but these, rendered."""
    splits: dict[str, list[Mapping[str, Any]]] = {"train": []}
    for row in sorted(map(named, rows), key=lambda row: row["step"]):
        splits.setdefault(row.get("split", "train"), []).append(row)
    train = splits.pop("train")
    written = read_rows(workdir / SAMPLES) if (workdir / SAMPLES).is_file() else []
    samples = [row for row in written if "reward" not in row][-SHOWN:]
    tree, details = _tree(workdir / "config.yaml"), _read(workdir / DETAILS)
    config, totals = _config(tree), _totals(train) if train else {}
    evals = {split: _first_last_best(rows) | _details(details, split, rows) for split, rows in splits.items()}
    quarantine = workdir / QUARANTINE
    return {
        "name": workdir.resolve().name,
        "config": config,
        "facts": _read(workdir / FACTS),
        "loss_unit": loss_unit(config),
        "train": _finite(train[-1]) | totals if train else {},
        "learnt": learnt(train, tree, totals.get("seconds")),
        "gains": gains(evals),
        "evals": evals,
        "quarantined": len(quarantine.read_bytes().splitlines()) if quarantine.is_file() else 0,
        "samples": samples,
        "answers": newest(written),
        "commands": commands(workdir, config, samples),
    }


def loss_unit(config: Mapping[str, Any]) -> str:
    """What a loss is a mean over; nothing where its terms have several such."""
    if config.get("algo.loss") == "pointwise":
        return "per answer"
    return UNITS.get(config.get("algo.kind", "pretrain"), "per pair")


def _tree(path: Path) -> Json:
    """The resolved config, where it was kept."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}


def _config(tree: Mapping[str, Any]) -> Json:
    """The keys of CONFIG_KEYS that the resolved config has; of a mixture, the weights."""
    found = {}
    for key in CONFIG_KEYS:
        value: Any = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if key == "data.mix" and value:
            value = {name: corpus.get("weight", 1.0) for name, corpus in value.items()}
        if value not in (None, {}):
            found[key] = value
    return found


def _read(path: Path) -> Json:
    """Of a file that a run writes; null where a number is not finite."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None) if path.is_file() else {}


def _finite(row: Mapping[str, Any]) -> Json:
    """The row with null for what is not finite."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items() if k != "split"}


def _totals(train: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Time in steps alone, the median rates, for the last row's are a sample of one, and the mean share trained on."""
    totals = {}
    steps = np.diff([0, *(row["step"] for row in train)])
    times = [(n, row["step_ms"]) for n, row in zip(steps, train, strict=True) if row.get("step_ms") is not None]
    if times:
        typical = float(np.median([ms for _, ms in times]))  # stands in where a row has no time: the first, compiling
        known = sum(n for n, _ in times)
        totals["seconds"] = float(sum(n * ms for n, ms in times) + (steps.sum() - known) * typical) / 1e3
    for name in RATES:
        if values := [row[name] for row in train if row.get(name) is not None]:
            totals[f"median_{name}"] = float(np.median(values))
    if shares := [row["trained_fraction"] for row in train if row.get("trained_fraction") is not None]:
        totals["mean_trained_fraction"] = float(np.mean(shares))
    return totals


def _first_last_best(rows: Sequence[Mapping[str, Any]]) -> Json:
    """The evaluation before training (step 0) where there is one, the last, and the one of least loss."""
    finite = [row for row in map(_finite, rows) if row.get("loss") is not None]
    return {
        "before": _finite(rows[0]) if rows[0]["step"] == 0 and len(rows) > 1 else None,
        "last": _finite(rows[-1]),
        "best": min(finite, key=lambda row: row["loss"]) if finite else None,
    }


def _details(details: Json, split: str, rows: Sequence[Mapping[str, Any]]) -> Json:
    """What details.json says of the set's last evaluation, if it is of that one."""
    found = details.get("sets", {}).get(split)
    return {"details": found} if found and details["step"] == rows[-1]["step"] else {}
