"""A run that is killed, again and again, is in the end the run that was left in peace."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import launcher
from tests.launcher import finish, jaxrl, rows, start, stop_at

LAST = 72  # so many more than the steps at which runs are stopped that none ends before its signal comes


def write_config(folder: Path, text: Path | None = None) -> Path:
    """The tiny run, but longer."""
    config = launcher.write_config(folder, text=text)
    config.write_text(config.read_text().replace("steps: 24", f"steps: {LAST}"))
    return config


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    jaxrl("train", write_config(folder))
    return folder / "run"


def test_killed_twice_then_stopped_the_losses_are_the_same_to_the_bit(undisturbed: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    steps = sorted(random.sample(range(6, 20), 3))
    for step, number, code in zip(steps, (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM), (-9, -9, 42), strict=True):
        process = start(["train", str(config)])
        stop_at(process, run, step, number)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == code, output
    assert "stopped by SIGTERM" in output
    assert f"continue with: jaxrl-llm train {config}" in output
    saved = max(int(folder.name) for folder in (run / "checkpoints").iterdir() if folder.name.isdecimal())
    assert f"resuming from step {saved} of {LAST}" in jaxrl("train", config)
    for split in ("train", "validation"):
        figures = [[(row["step"], row["loss"]) for row in rows(folder, split)] for folder in (undisturbed, run)]
        assert figures[0] == figures[1], f"killed at {steps}"
    assert [row["step"] for row in rows(run)] == list(range(1, LAST + 1))
    kept = sorted(int(folder.name) for folder in (run / "checkpoints").iterdir())
    assert kept[-1] == LAST
    assert len(kept) == 2  # keep_last: 2


def test_ctrl_c_saves_and_a_finished_run_says_so(undisturbed: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    process = start(["train", str(config)])
    stop_at(process, run, 4, signal.SIGINT)
    assert "stopped by Ctrl-C" in finish(process, 42)
    again = jaxrl("train", config)
    assert "resuming from step" in again
    assert rows(run)[-1]["loss"] == rows(undisturbed)[-1]["loss"]
    assert "nothing is left to do" in jaxrl("train", config)


def test_a_mesh_of_eight_resumes_what_one_device_began(undisturbed: Path, tmp_path: Path) -> None:
    """Checkpoints are of the run, not of the devices: begun on 1, finished on fsdp=4 x tensor=2."""
    config, run = write_config(tmp_path), tmp_path / "run"
    process = start(["train", str(config)])
    stop_at(process, run, 6, signal.SIGTERM)
    finish(process, 42)
    jaxrl("train", config, "mesh.fsdp=4", "mesh.tensor=2", devices=8)
    for ours, theirs in zip(rows(run), rows(undisturbed), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_a_damaged_checkpoint_is_named(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    config = write_config(tmp_path, text=undisturbed.parent / "text.txt")
    for file in (tmp_path / "run" / "checkpoints" / str(LAST) / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    output = jaxrl("train", config, f"training.steps={LAST + 6}", code=2)
    assert f"checkpoints/{LAST}" in output


def test_a_disk_that_is_full_ends_with_74(tmp_path: Path) -> None:
    """Files larger than so much cannot be written, in the background or not."""
    config = write_config(tmp_path)
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    limited += "from jaxrl_llm.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", limited, "train", str(config), "checkpoint.every=1"],
        env={**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 74, done.stderr
    assert "was not written" in done.stderr
