"""SFT, reward models, DPO and kin that were stopped are in the end the runs that were left in peace."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from jaxrl_llm.errors import UserError
from tests.launcher import finish, jaxrl, rows, start, stop_at
from tests.tiny import Runs, column, train

STAGES = ["sft", "reward", "pointwise", "dpo", "dpo_cached", "kto", "kto_cached", "simpo", "orpo"]
STAGES += [f"{name}_{part}" for name in ("sft", "reward", "dpo") for part in ("lora", "parts")]


def stopped_at_two(run: Path, to: Path) -> Path:
    """A copy of a run as if it had been killed after step 3, of which the metrics were written and no checkpoint."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "checkpoints" / "4")
    metrics = (to / "metrics.jsonl").read_text().splitlines()
    (to / "metrics.jsonl").write_text("\n".join(line for line in metrics if json.loads(line)["step"] < 4) + "\n")
    return to


@pytest.mark.parametrize("name", STAGES)
def test_what_was_stopped_goes_on_to_the_bit(runs: Runs, tmp_path: Path, name: str) -> None:
    whole, run = runs(name), stopped_at_two(runs(name), tmp_path / "run")
    train(runs.config(name), f"workdir={run}")
    for split in ("train", "validation"):
        assert column(run, split=split) == column(whole, split=split)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["dpo", "dpo_cached", "sft_lora"])
def test_a_base_that_changed_or_went_stops_a_run_that_needs_it(runs: Runs, tmp_path: Path, name: str) -> None:
    before = runs("pretrain" if name.startswith("sft") else "sft")
    base = shutil.copytree(before, tmp_path / "base")
    config = runs.config(name, tmp_path / "run.yaml", init_from=str(base))
    train(config, "training.steps=2")
    other = shutil.copytree(base, tmp_path / "other")
    shutil.rmtree(base / "checkpoints" / "4")
    shutil.copytree(base / "checkpoints" / "2", base / "checkpoints" / "4")
    with pytest.raises(UserError, match="whose weights are others now"):
        train(config, "training.steps=4")
    shutil.rmtree(base)
    with pytest.raises(UserError, match=str(base)):
        train(config, "training.steps=4")
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]  # nothing was touched
    other.rename(base)
    train(config, "training.steps=4")
    assert column(tmp_path / "run")[:4] == column(runs(name))


def test_a_base_that_trained_on_is_still_there(runs: Runs, tmp_path: Path) -> None:
    """The reference is the checkpoint that the run began from, not the newest of that run."""
    base = shutil.copytree(runs("sft"), tmp_path / "base")
    shutil.rmtree(base / "checkpoints" / "4")
    config = runs.config("dpo", tmp_path / "run.yaml", init_from=str(base))
    train(config, "training.steps=2")
    shutil.copytree(runs("sft") / "checkpoints" / "4", base / "checkpoints" / "4")
    train(config, "training.steps=4")
    assert len(rows(tmp_path / "run")) == 4


def test_a_run_that_needs_no_base_goes_on_without(runs: Runs, tmp_path: Path) -> None:
    base = shutil.copytree(runs("sft"), tmp_path / "base")
    config = runs.config("simpo", tmp_path / "run.yaml", init_from=str(base))
    train(config, "training.steps=2")
    shutil.rmtree(base / "checkpoints")
    train(config, "training.steps=4")
    assert column(tmp_path / "run") == column(runs("simpo"))


@pytest.mark.parametrize("name", ["reward", "dpo_lora"])
def test_a_signal_stops_a_command_and_the_same_command_goes_on(runs: Runs, tmp_path: Path, name: str) -> None:
    """As a user has it: processes of their own, and a SIGTERM in the middle."""
    config = runs.config(name, tmp_path / "run.yaml", training={"steps": 40, "batch_size": 8, "log_every": 1})
    whole = start(["train", str(config), f"workdir={tmp_path / 'whole'}"])
    process = start(["train", str(config)])
    stop_at(process, tmp_path / "run", 3, signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(process, 42)
    saved = max(int(folder.name) for folder in (tmp_path / "run" / "checkpoints").iterdir() if folder.name.isdecimal())
    assert 3 <= saved < 40
    jaxrl("train", config)
    finish(whole)
    assert column(tmp_path / "run") == column(tmp_path / "whole")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["steps"] == 40
