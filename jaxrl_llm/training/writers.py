"""Where the figures of a run are kept: metrics.jsonl always, TensorBoard events, Weights & Biases.

A run that was killed and resumed has each step once: what the dead process wrote past its last checkpoint is cut off
before the new one appends.  Only process 0 writes; the others are given no writers.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import yaml

from jaxrl_llm.errors import StorageFailed, UserError

# What a run directory holds besides config.yaml and checkpoints; the report is made of these files alone.
METRICS, SAMPLES, FACTS, DETAILS = "metrics.jsonl", "samples.jsonl", "facts.json", "details.json"
QUARANTINE = "quarantine.jsonl"


class Writer(Protocol):
    """Keeps the figures of one run."""

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """`split` is "train" or the name of an evaluation set; `metrics` are Python numbers."""

    def close(self) -> None:
        """Everything written so far is on disk, or sent."""


class JsonlWriter:
    """WORKDIR/metrics.jsonl, a row at a time: `{"step": 100, "split": "train", "loss": 1.62, "lr": 0.002}`.

    Numbers that are not finite become null, for JSON has no other word.  `resumed` is the step of the checkpoint that
    the run continues from: later rows are cut off, of samples.jsonl too; None starts the files afresh.
    """

    def __init__(self, workdir: Path, resumed: int | None = None) -> None:
        self._path = workdir / METRICS
        try:
            for name in (METRICS, SAMPLES):
                truncate_after(workdir / name, -1 if resumed is None else resumed)
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written: {error.strerror}\n  mend: choose another workdir"
            ) from error

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append one row.  Raises StorageFailed when the disk refuses it."""
        row = {"step": step, "split": split} | {name: plain(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")  # line-buffered: out of this process at once
        except OSError as error:
            raise _storage_failed(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter:
    """Event files in WORKDIR/tensorboard, tags `split/name`.  Needs no TensorFlow."""

    def __init__(self, workdir: Path, resumed: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        # Events are never cut: `purge_step` makes the viewer hide what a dead process wrote from there on.
        purge = 0 if resumed is None else resumed + 1
        folder = str(workdir / "tensorboard")
        self._events = SummaryWriter(
            folder, purge_step=purge, filename_suffix=f".{purge}", flush_secs=10, max_queue=1000
        )

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Add one scalar a metric."""
        for name, value in metrics.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._events.close()


class WandbWriter:
    """A Weights & Biases run, named after the run directory.

    The run's id is kept in WORKDIR/wandb_id, so that a resumed run continues its curves.
    """

    def __init__(self, workdir: Path, resumed: int | None = None, *, project: str) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("wandb is not installed\n  mend: pip install 'jaxrl-llm[wandb]'") from None

        kept = workdir / "wandb_id"
        if resumed is None or not kept.exists():
            kept.write_text(uuid4().hex[:12])
        config = workdir / "config.yaml"
        self._run = wandb.init(
            project=project,
            name=workdir.resolve().name,
            dir=str(workdir),
            id=kept.read_text().strip(),
            resume="allow",
            config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else None,
        )

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Log `split/name`; W&B itself drops steps that it has seen."""
        self._run.log({f"{split}/{name}": value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        """Finish the run: everything is sent."""
        self._run.finish()


def open_writers(
    workdir: Path, *, resumed: int | None = None, tensorboard: bool = True, wandb: str | None = None
) -> tuple[Writer, ...]:
    """The writers of a run: metrics.jsonl always, the others as asked (`wandb` is the project).

    metrics.jsonl comes last: nothing of an earlier run is cut off when another writer cannot be had.
    """
    optional: list[Writer] = []
    if wandb:
        optional.append(WandbWriter(workdir, resumed, project=wandb))
    if tensorboard:
        optional.append(TensorBoardWriter(workdir, resumed))
    return (*optional, JsonlWriter(workdir, resumed))


def plain(value: Any) -> int | float | None:
    """A number as JSON has it: NumPy and JAX scalars become Python's, what is not finite becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, int) or math.isfinite(value) else None


def append_sample(workdir: Path, step: int, prompt: str, completion: str) -> None:
    """One line of WORKDIR/samples.jsonl: `{"step": 100, "prompt": "To be", "completion": " or not"}`."""
    append_samples(workdir, [{"step": step, "prompt": prompt, "completion": completion}])


def append_samples(workdir: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Lines of WORKDIR/samples.jsonl, each with its `step`; of answers with rewards that of the first update on them:

    `{"step": 9, "round": 2, "prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "#### 4", "reward": 1.0,
    "parts": {"grade": 1.0}, "ended": true, "tokens": [35, 52, 2]}`; a prompt that is no conversation is a text.

    Raises StorageFailed when the disk refuses them; a line that it tore is cut off when the run is resumed.
    """
    path = workdir / SAMPLES
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
    except OSError as error:
        raise _storage_failed(path, error) from error


def write_facts(workdir: Path, facts: Mapping[str, Any]) -> None:
    """WORKDIR/facts.json, what no config says: `{"parameters": 804096, "devices": "8 x cpu", "jax": "0.10.2"}`."""
    (workdir / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def write_details(workdir: Path, details: Mapping[str, Any]) -> None:
    """WORKDIR/details.json: of the last evaluation what is more than a number, as `heldout.judged` describes it."""
    (workdir / DETAILS).write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that has a `step` in each; a last line torn by a kill is left out.

    Raises UserError with file:line where any other line is no such row.
    """
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError('not an object with a "step"')
        except ValueError as error:  # JSON and UTF-8 errors are ValueErrors too
            if number == len(lines):
                break
            raise UserError(f"{path}:{number}: {error}\n  mend: delete that line") from error
        rows.append(row)
    return rows


def truncate_after(path: Path, step: int) -> None:
    """Keep the rows up to and with `step` (and no torn line); in one move, so that a kill here loses nothing."""
    if not path.exists():
        return
    lines = [json.dumps(row) for row in read_rows(path) if row["step"] <= step]
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    beside.replace(path)


def _storage_failed(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(f"{path}: {error.strerror}\n  mend: make room, then start the same command again")
