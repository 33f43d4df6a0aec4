"""A run of PPO that is killed anywhere goes on with the same answers, rewards, updates and coefficients, to the bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.launcher import environment, jaxrl, rows
from tests.tiny import Runs, column, train

SPEEDS = {"tokens_per_s", "tflops", "memory_gib", "sample_s", "score_s", "prepare_s", "data_wait_ms", "step_ms"}


def write(runs: Runs, path: Path) -> Path:
    """The config, as a file with all that is overridden."""
    config = yaml.safe_load(runs.config("ppo", path).read_text())
    config["rollout"]["rewards"]["normalise"] = "running"
    # Amid each round of four updates, but for the third checkpoint.
    config["checkpoint"] = {"every": 3, "keep_last": 9}
    config["training"]["steps"] = 12
    config["logging"]["quiet"] = False
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(runs, tmp_path_factory.mktemp("ppo") / "run.yaml")
    jaxrl("train", path)
    return path.with_suffix("")


def figures(run: Path) -> list[dict[str, Any]]:
    """Every row, but how fast it was."""
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in rows(run)]


def samples(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("where", "number"), [("rollout", 1), ("update", 7), ("save", 6)])
def test_killed_anywhere_it_ends_as_the_undisturbed_run(
    runs: Runs, undisturbed: Path, tmp_path: Path, where: str, number: int
) -> None:
    config = write(runs, tmp_path / "run.yaml")
    command = [sys.executable, "-m", "tests.reliability.killed", where, str(number), str(config)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == -9, done.stdout + done.stderr
    assert f"resuming from step {6 if where == 'update' else 3} of 12" in jaxrl("train", config)
    assert figures(tmp_path / "run") == figures(undisturbed)
    assert samples(tmp_path / "run") == samples(undisturbed)


def test_stopped_at_every_place_of_a_round_it_goes_on_to_the_bit(runs: Runs, undisturbed: Path, tmp_path: Path) -> None:
    """Between two rounds, after the first mini-batch, between two epochs, before the last mini-batch."""
    config = write(runs, tmp_path / "run.yaml")
    for last in (4, 5, 6, 7, 12):
        train(config, f"training.steps={last}")
    ours, theirs = (column(run, "score") for run in (tmp_path / "run", undisturbed))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # in one process and another, compiled alike


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_a_mesh_of_eight_has_the_losses_of_one_device(runs: Runs, tmp_path: Path, name: str) -> None:
    overrides = ["rollout.slots=8", "training.batch_size=8", "training.steps=3"]
    found = {}
    for devices, mesh in ((1, []), (8, ["mesh.fsdp=2", "mesh.context=2", "mesh.tensor=2"])):
        config = runs.config(name, tmp_path / f"{name}{devices}.yaml")
        found[devices] = train(config, *overrides, *mesh, devices=devices)
    for key in ("loss", "score", "kl", "length", "policy_loss", "entropy"):
        np.testing.assert_allclose(column(found[8], key), column(found[1], key), rtol=1e-4, atol=1e-5, err_msg=key)
    if name != "grpo":  # whose rewards are whole numbers
        assert samples(found[8])[0]["tokens"] == samples(found[1])[0]["tokens"]
