"""The report of a run: report.md with plots/*.png, and the same figures as report.json.

Everything is read from the run directory, so that a report can be written again at any time: config.yaml, metrics.jsonl,
samples.jsonl, and run.json, the facts that only the process knew (`{"parameters": 804096, "devices": "8 x cpu", ...}`).
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxrl_llm import plots
from jaxrl_llm.errors import UserError
from jaxrl_llm.training.console import digits, duration, printable, si
from jaxrl_llm.training.writers import METRICS, read_rows

SAMPLES, FACTS = "samples.jsonl", "run.json"
SHOWN = 3  # samples in the report: the last ones

# Keys of config.yaml that say what was run, where it has them.
CONFIG_KEYS = (
    "algo.kind",
    "model.preset",
    "init_from",
    "data.path",
    "data.length",
    "tokenizer.kind",
    "training.steps",
    "training.batch_size",
    "optim.kind",
    "optim.lr",
    "schedule.kind",
    "seed",
)


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


def collect(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures of the report as JSON; report.md is nothing but these, rendered."""
    train = [row for row in rows if row.get("split", "train") == "train"]
    evals: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row not in train:
            evals.setdefault(row["split"], []).append(row)
    samples = read_rows(workdir / SAMPLES)[-SHOWN:] if (workdir / SAMPLES).is_file() else []
    return {
        "name": workdir.resolve().name,
        "workdir": str(workdir),
        "config": _config(workdir / "config.yaml"),
        "facts": _facts(workdir / FACTS),
        "train": _finite(train[-1]) | _totals(train) if train else {},
        "evals": {split: _first_last_best(sorted(rows, key=lambda row: row["step"])) for split, rows in evals.items()},
        "samples": samples,
    }


def _config(path: Path) -> dict[str, Any]:
    """The keys of CONFIG_KEYS that the resolved config has, and the names of a mixture's corpora."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = {}
    for key in CONFIG_KEYS:
        value: Any = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    mix = tree.get("data", {}).get("mix") if isinstance(tree, dict) and isinstance(tree.get("data"), dict) else None
    if mix:
        found["data.mix"] = {name: corpus.get("weight", 1.0) for name, corpus in mix.items()}
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
        _commands(figures),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(figures: Mapping[str, Any]) -> str:
    """One sentence: what was trained on what, for how long, how well it does."""
    config, facts, train = figures["config"], figures["facts"], figures["train"]
    if not train:
        return "No training step was logged."
    kind = config.get("algo.kind", "training")
    size = f" of a model of {si(facts['parameters'])} parameters" if "parameters" in facts else ""
    text = f"**{kind}**{size}: {train['step']:,} steps"
    if train.get("tokens") is not None:
        text += f", {si(train['tokens'])} tokens"
    if "seconds" in train:
        text += f", {duration(train['seconds'])} of training"
    if "devices" in facts:
        text += f" on {facts['devices']}"
    text += f". Training loss {_number(train.get('loss'), 4)}."
    for split, rows in figures["evals"].items():
        text += f" {split.capitalize()} loss **{_number(rows['last'].get('loss'), 4)}**."
    return text


def _results(evals: Mapping[str, Any]) -> str:
    if not evals:
        return ""
    rows = []
    for split, found in evals.items():
        last, best = found["last"], found["best"]
        least = "–" if best is None else f"{best['loss']:.4f} at {best['step']:,}"
        rows.append((split, f"{last['step']:,}", *_scores(last), least))
    return "## Evaluation\n\n" + _table(("set", "step", "loss", "perplexity", "bits per byte", "least loss"), rows)


def _before_after(evals: Mapping[str, Any]) -> str:
    """What training gave and what it took away: in continual pretraining, the forgetting table."""
    rows = []
    for split, found in evals.items():
        before, after = found["before"], found["last"]
        if before is not None:
            pairs = [(before.get(name), after.get(name)) for name in ("loss", "bits_per_byte")]
            rows.append((split, *(cell for pair in pairs for cell in _change(*pair))))
    if not rows:
        return ""
    head = ("set", "loss before", "after", "change", "bits per byte before", "after", "change")
    return "## Before and after\n\n" + _table(head, rows)


def _change(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = "–" if before is None or after is None else f"{after - before:+.4f}".replace("-", "−")
    return _number(before, 4), _number(after, 4), change


def _scores(row: Mapping[str, Any]) -> tuple[str, str, str]:
    perplexity = row.get("perplexity")
    return (
        _number(row.get("loss"), 4),
        "–" if perplexity is None else si(perplexity),
        _number(row.get("bits_per_byte"), 4),
    )


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """What the model writes, fenced so that nothing in it is read as Markdown."""
    if not samples:
        return ""
    blocks = []
    for sample in samples:
        text = printable(f"{sample.get('prompt', '')}{sample.get('completion', '')}")
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        blocks.append(
            f"Step {sample['step']:,}, after the prompt {_code(sample.get('prompt', ''))}:\n\n{fence}text\n{text}\n{fence}"
        )
    return "## Samples\n\n" + "\n\n".join(blocks)


def _run(figures: Mapping[str, Any]) -> str:
    train = figures["train"]
    rows = [(key, _code(value)) for key, value in figures["config"].items()]
    rows += [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in figures["facts"].items()]
    if train:
        rows += [
            (
                "last training loss, gradient norm",
                f"{_number(train.get('loss'), 4)}, {_number(train.get('grad_norm'), 2)}",
            )
        ]
    if "median_tokens_per_s" in train:
        rows.append(("speed (median)", _speed(train)))
    if train.get("memory_gib") is not None:
        rows.append(("memory", f"{train['memory_gib']:.1f} GiB"))
    return "## The run\n\n" + _table(("", ""), rows) if rows else ""


def _speed(train: Mapping[str, Any]) -> str:
    text = f"{si(train['median_tokens_per_s'])} tokens/s, {digits(train['median_tflops'])} TFLOP/s"
    if "median_peak_share" in train:
        text += f" ({100 * train['median_peak_share']:.1f} % of peak)"
    return (
        text
        + f", {digits(train['median_step_ms'])} ms a step, {digits(train['median_data_wait_ms'])} of them waiting for data"
    )


def _commands(figures: Mapping[str, Any]) -> str:
    run = shlex.quote(figures["workdir"])
    commands = (
        ("Run it again", f"jaxrl-llm train {run}/config.yaml workdir={run}-again"),
        ("Let it write", f'jaxrl-llm generate {run} --prompt "Once upon a time"'),
        (
            "Train it on, on other text",
            f"jaxrl-llm train {run}/config.yaml init_from={run} data.path=OTHER.txt workdir=OTHER",
        ),
        ("Look at the curves", f"tensorboard --logdir {run}/tensorboard"),
    )
    return "## Again, and next\n\n```bash\n" + "\n".join(f"{command}  # {why}" for why, command in commands) + "\n```"


def _image(figures: Mapping[str, Any], name: str, width: int | None = None) -> str:
    caption = figures["plots"].get(name)
    if caption is None:
        return ""
    return f'<img src="plots/{name}" alt="{caption}" width="{width}">' if width else f"![{caption}](plots/{name})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:" if head[1] else "---"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _code(value: Any) -> str:
    """A value as inline code; backquotes and newlines in it cannot end the code."""
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    text = text.replace("\n", "\\n").replace("`", "'")
    return f"`{text}`" if text else "(empty)"
