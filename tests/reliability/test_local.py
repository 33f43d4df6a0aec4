"""launch/local.sh with two real processes: killed, stopped, and in the end the run that nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launcher import environment, rows, write_config
from tests.reliability.audited import written
from tests.tiny import train

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ["eval.every=0", "eval.max_rows=16", "training.steps=30", "model.context=32"]
WRAPPER = f"""#!/usr/bin/env bash
echo $$ >{{here}}/pid_$JAX_PROCESS_ID
cd {ROOT}
exec {sys.executable} -m tests.reliability.audited {{here}}/log_$JAX_PROCESS_ID "$@"
"""


def begin(config: Path) -> "subprocess.Popen[str]":
    """The script, and `jaxrl-llm` a wrapper that tells us who is who."""
    here = config.parent
    (here / "bin").mkdir(exist_ok=True)
    (here / "bin" / "jaxrl-llm").write_text(WRAPPER.format(here=here))
    (here / "bin" / "jaxrl-llm").chmod(0o755)
    env = environment(2) | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}
    options = ["--procs", "2", "--sim-devices", "2", "--grace", "1", "--backoff", "0"]
    command = [str(ROOT / "launch" / "local.sh"), *options, "--", "train", str(config), *SETTINGS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=env, **pipes)


def wait_for(ran: "subprocess.Popen[str]", run: Path, step: int) -> None:
    end = time.monotonic() + 200
    while not any(row["step"] >= step for row in rows(run)):
        assert ran.poll() is None, ran.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_survive_a_kill_and_a_sigterm(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    ran = begin(config)
    wait_for(ran, run, 7)
    os.kill(int((tmp_path / "pid_1").read_text()), signal.SIGKILL)
    killed_at = max(row["step"] for row in rows(run))
    wait_for(ran, run, killed_at + 2)
    ran.send_signal(signal.SIGTERM)
    out, _ = ran.communicate(timeout=200)
    assert ran.returncode == 42, out
    assert "restart 1 of 10" in out
    assert "[0] resuming from step " in out
    assert "stopped by SIGTERM" in out
    ran = begin(config)
    out, _ = ran.communicate(timeout=200)
    assert ran.returncode == 0, out
    assert "[0] done: " in out
    undisturbed = train(write_config(tmp_path, "whole", tmp_path / "text.txt"), *SETTINGS, devices=4)
    ours, theirs = rows(run), rows(undisturbed)
    assert [row["step"] for row in ours] == list(range(1, 31))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    assert written(tmp_path / "log_0", run)
    assert not written(tmp_path / "log_1", run), "process 0 writes for all"
