"""Stages without work: a script in place of python, that logs what it was asked to do and leaves what it should."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

PIPELINE = """\
workdir: runs/p
stages:
  corpus:
    verb: data corpus
    args: ["{corpus}/stories.jsonl"]
  pretrain:
    verb: train
    config: train.yaml
    set: {data.path: "{corpus}/stories.jsonl", training.steps: 5}
  again:
    verb: train
    config: train.yaml
    set: {data.path: other.txt, init_from: "{pretrain}"}
next:
  - jaxrl-llm generate {again}
"""
MODEL = "{vocab_size: 260, d_model: 16, d_ff: 24, n_layers: 1, n_heads: 2, n_kv_heads: 1, context: 64}"

# `data` leaves its file; `train` and `reject` what lies in REPORTS/NAME.json as their report.
STUB = """\
#!/bin/sh
shift 2
echo "$@" >> log
case "$*" in *"$(cat fail 2>/dev/null || echo nothing)"*) echo working; echo "error: it is broken" >&2; exit 7;; esac
case "$1" in data) echo x > "$3";; esac
for word in "$@"; do
  case "$word" in workdir=*)
    folder=${word#workdir=}
    report=reports/$(basename "$folder").json
    [ -f "$report" ] && cp "$report" "$folder/report.json" && echo "# it" > "$folder/report.md";;
  esac
done
exit 0
"""

CORPUS = "data corpus runs/p/corpus/stories.jsonl"
TRAIN = "train train.yaml workdir=runs/p/pretrain data.path=runs/p/corpus/stories.jsonl training.steps=5"
AGAIN = "train train.yaml workdir=runs/p/again data.path=other.txt init_from=runs/p/pretrain"
ALL = [CORPUS, TRAIN, AGAIN]


def stub(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages run this."""
    path = Path("python-stub").absolute()
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def log() -> list[str]:
    """What the stub was asked for since the last call."""
    lines = Path("log").read_text().splitlines() if Path("log").exists() else []
    Path("log").unlink(missing_ok=True)
    return lines


def leaves(name: str, report: dict[str, Any]) -> None:
    """Let the stage NAME leave this report.json."""
    Path("reports").mkdir(exist_ok=True)
    (Path("reports") / f"{name}.json").write_text(json.dumps(report))


def trained(accuracy: tuple[float | None, float], task: str = "arithmetic") -> dict[str, Any]:
    """The report.json of a run on a task, with its held-out text."""

    def row(value: float, loss: float) -> dict[str, Any]:
        bounds = {"accuracy_low": value - 0.04, "accuracy_high": value + 0.04}
        return {"step": 0, "accuracy": value, **bounds, "parsed": 0.9, "problems": 500.0, "loss": loss}

    before, after = accuracy
    first = None if before is None else row(before, 0.7)
    last = row(after, 0.06)
    text = {"before": {"step": 0, "loss": 0.7}, "last": {"step": 5, "loss": 0.06, "perplexity": 1.06}}
    for each in (first, last):
        if each is not None:
            each.pop("loss")
    return {"evals": {"validation": text, task: {"before": first, "last": last}}, "learnt": None}


def judged(accuracy: tuple[float, float], margin: tuple[float, float] = (0.0, 1.5)) -> dict[str, Any]:
    """The report.json of a run on held-out pairs."""
    sides = [
        {
            "loss": 0.69 - m / 5,
            "accuracy": a,
            "margin": m,
            "accuracy_low": a - 0.05,
            "accuracy_high": a + 0.05,
            "step": 0,
        }
        for a, m in zip(accuracy, margin, strict=True)
    ]
    return {"evals": {"validation": {"before": sides[0], "last": sides[1]}}, "learnt": None}
