"""The report of a run: report.md with plots/*.png, and the same figures as report.json.

Everything is read from the run directory, so that a report can be written again at any time: config.yaml, and what
`training.writers` keeps there.
"""

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxrl_llm import plots
from jaxrl_llm.errors import UserError
from jaxrl_llm.training.console import digits, duration, printable, si
from jaxrl_llm.training.writers import FACTS, METRICS, SAMPLES, read_rows

SHOWN = 3  # samples in the report: the last ones

# Keys of config.yaml that say what was run, where it has them.
CONFIG_KEYS = (
    "algo.kind",
    "init_from",
    "model.preset",
    "model.d_model",
    "model.n_layers",
    "model.n_heads",
    "model.vocab_size",
    "tokenizer.kind",
    "data.path",
    "data.mix",
    "data.length",
    "training.batch_size",
    "optim.kind",
    "schedule.kind",
    "schedule.lr",
    "seed",
)

# Figures of `train` in report.json -> what the table of the run calls them, and how it shows them.
SPEEDS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "median_tokens_per_s": ("tokens per second, median", si),
    "median_tflops": ("TFLOP/s", digits),
    "median_peak_share": ("share of the chips' peak", lambda x: f"{100 * x:.1f} %"),
    "median_step_ms": ("milliseconds a step", digits),
    "median_data_wait_ms": ("of them waiting for data", digits),
    "memory_gib": ("memory, GiB", digits),
}


def write_report(workdir: Path) -> Path:
    """Write plots/, report.md and report.json into a run directory; returns the path of report.md.

    A run that was cut short, or has no evaluation or sample, has a shorter report.  Raises UserError where there is no
    metrics.jsonl.
    """
    if not (workdir / METRICS).is_file():
        raise UserError(f"{workdir} has no {METRICS}: it is not a run directory, or its run never began")
    rows = read_rows(workdir / METRICS)
    figures = collect(workdir, rows)
    figures["plots"] = plots.draw(curves(rows), workdir / "plots")
    (workdir / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    report = workdir / "report.md"
    report.write_text(markdown(figures), encoding="utf-8")
    return report


def curves(rows: Iterable[Mapping[str, Any]]) -> plots.Curves:
    """split -> metric -> (steps, values), by step; what is not a finite number is left out."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "split") and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(row.get("split", "train"), {}).setdefault(name, []).append((row["step"], value))

    def arrays(pairs: list[tuple[int, float]]) -> plots.Curve:
        steps, values = np.asarray(sorted(pairs), np.float64).T
        return steps, values

    return {split: {name: arrays(pairs) for name, pairs in metrics.items()} for split, metrics in points.items()}


def collect(workdir: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures of the report as JSON; report.md is nothing but these, rendered."""
    splits: dict[str, list[Mapping[str, Any]]] = {"train": []}
    for row in sorted(rows, key=lambda row: row["step"]):
        splits.setdefault(row.get("split", "train"), []).append(row)
    train = splits.pop("train")
    samples = read_rows(workdir / SAMPLES)[-SHOWN:] if (workdir / SAMPLES).is_file() else []
    return {
        "name": workdir.resolve().name,
        "config": _config(workdir / "config.yaml"),
        "facts": _facts(workdir / FACTS),
        "train": _finite(train[-1]) | _totals(train) if train else {},
        "evals": {split: _first_last_best(rows) for split, rows in splits.items()},
        "samples": samples,
        "commands": _commands(workdir, samples),
    }


def _config(path: Path) -> dict[str, Any]:
    """The keys of CONFIG_KEYS that the resolved config has; of a mixture, the weights."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
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


def _facts(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with null for what is not finite."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items() if k != "split"}


def _totals(train: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Time in steps alone, and the median rates: the last row's are a sample of one."""
    totals = {}
    steps = np.diff([0, *(row["step"] for row in train)])
    times = [(n, row["step_ms"]) for n, row in zip(steps, train, strict=True) if row.get("step_ms") is not None]
    if times:
        typical = float(np.median([ms for _, ms in times]))  # stands in where a row has no time: the first, compiling
        known = sum(n for n, _ in times)
        totals["seconds"] = float(sum(n * ms for n, ms in times) + (steps.sum() - known) * typical) / 1e3
    for name in ("tokens_per_s", "tflops", "peak_share", "step_ms", "data_wait_ms"):
        values = [row[name] for row in train if row.get(name) is not None]
        if values:
            totals[f"median_{name}"] = float(np.median(values))
    return totals


def _first_last_best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The evaluation before training (step 0) where there is one, the last, and the one of least loss."""
    finite = [row for row in map(_finite, rows) if row.get("loss") is not None]
    return {
        "before": _finite(rows[0]) if rows[0]["step"] == 0 and len(rows) > 1 else None,
        "last": _finite(rows[-1]),
        "best": min(finite, key=lambda row: row["loss"]) if finite else None,
    }


def markdown(figures: Mapping[str, Any]) -> str:
    """report.md from the figures of report.json."""
    commands = "\n".join(f"{command}  # {why}" for why, command in figures["commands"].items())
    sections = [
        f"# {figures['name']}",
        _summary(figures),
        _image(figures, "loss.png"),
        _results(figures["evals"]),
        _before_after(figures["evals"]),
        _image(figures, "domains.png"),
        _samples(figures["samples"]),
        _run(figures),
        " ".join(filter(None, (_image(figures, "learning_rate.png", 400), _image(figures, "throughput.png", 400)))),
        f"## Next\n\n```bash\n{commands}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(figures: Mapping[str, Any]) -> str:
    """One paragraph: what was trained, for how long, how well it does."""
    config, facts, train = figures["config"], figures["facts"], figures["train"]
    if not train:
        return "No training step was logged."
    size = f" of a model of {si(facts['parameters'])} parameters" if "parameters" in facts else ""
    text = f"**{config.get('algo.kind', 'training')}**{size}: {train['step']:,} steps"
    if "tokens" in train:
        text += f", {si(train['tokens'])} tokens"
    if "seconds" in train:
        text += f", {duration(train['seconds'])} of training"
    if "devices" in facts:
        text += f" on {facts['devices']}"
    losses = [f"training {_figure(train, 'loss')}"]
    losses += [f"{split} **{_figure(found['last'], 'loss')}**" for split, found in figures["evals"].items()]
    return f"{text}.\nLoss at the end: {', '.join(losses)} nats per token."


def _results(evals: Mapping[str, Any]) -> str:
    if not evals:
        return ""
    rows = []
    for split, found in evals.items():
        last, best = found["last"], found["best"]
        least = "–" if best is None else f"{best['loss']:.4f} at {best['step']:,}"
        perplexity = si(last["perplexity"]) if last.get("perplexity") is not None else _figure(last, "perplexity")
        scores = (_figure(last, "loss"), perplexity, _figure(last, "bits_per_byte"))
        rows.append((split, f"{last['step']:,}", *scores, least))
    return "## Evaluation\n\n" + _table(("set", "step", "loss", "perplexity", "bits per byte", "least loss"), rows)


def _before_after(evals: Mapping[str, Any]) -> str:
    """What training gave and what it took away: in continual pretraining, the forgetting table."""
    rows = []
    for split, found in evals.items():
        if found["before"] is not None:
            loss, bits = (_change(found["before"], found["last"], name) for name in ("loss", "bits_per_byte"))
            rows.append((split, *loss, *bits))
    head = ("set", "loss before", "after", "change", "bits per byte before", "after", "change")
    return "## Before and after\n\n" + _table(head, rows) if rows else ""


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    both = before.get(name) is not None and after.get(name) is not None
    change = f"{after[name] - before[name]:+.4f}".replace("-", "−") if both else "–"
    return _figure(before, name), _figure(after, name), change


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """What the model writes, fenced so that nothing in it is read as Markdown."""
    if not samples:
        return ""
    blocks = []
    for sample in samples:
        prompt = sample.get("prompt", "")
        text = printable(prompt + sample.get("completion", ""))
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        after = f"after the prompt {_code(prompt)}" if prompt else "without a prompt"
        blocks.append(f"Step {sample['step']:,}, {after}:\n\n{fence}text\n{text}\n{fence}")
    return "## Samples\n\n" + "\n\n".join(blocks)


def _run(figures: Mapping[str, Any]) -> str:
    train = figures["train"]
    rows = [(key, _code(value)) for key, value in figures["config"].items()]
    rows += [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in figures["facts"].items()]
    rows += [(label, shown(train[name])) for name, (label, shown) in SPEEDS.items() if train.get(name) is not None]
    return "## The run\n\n" + _table(("", ""), rows) if rows else ""


def _commands(workdir: Path, samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What to type next: purpose -> command."""
    run, again, onward = (shlex.quote(f"{workdir}{end}") for end in ("", "-again", "-onward"))
    prompt = samples[-1].get("prompt", "").strip().split("\n")[0] if samples else ""
    commands = {
        "let it write": f"jaxrl-llm generate {run} --prompt {shlex.quote(prompt or 'Once upon a time')}",
        "run it again": f"jaxrl-llm train {shlex.quote(str(workdir / 'config.yaml'))} workdir={again}",
        "train it further, by another config": f"jaxrl-llm train OTHER.yaml init_from={run} workdir={onward}",
    }
    if (workdir / "tensorboard").is_dir():
        commands["look at all curves"] = f"tensorboard --logdir {shlex.quote(str(workdir / 'tensorboard'))}"
    return commands


def _image(figures: Mapping[str, Any], name: str, width: int | None = None) -> str:
    caption = figures["plots"].get(name)
    if caption is None:
        return ""
    return f'<img src="plots/{name}" alt="{caption}" width="{width}">' if width else f"![{caption}](plots/{name})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:" if head[1] else "---"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _figure(row: Mapping[str, Any], name: str, places: int = 4) -> str:
    """`–` where the row has no such figure; null stands for one that is not finite."""
    value = row.get(name, math.nan)
    if value is None:
        return "not finite"
    return "–" if math.isnan(value) else f"{value:.{places}f}"


def _code(value: Any) -> str:
    """A value as inline code; backquotes and newlines in it cannot end the code."""
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return "`" + text.replace("\n", "\\n").replace("`", "'") + "`"
