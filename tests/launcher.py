"""Starting jaxrl-llm as a user would: another process, its own interpreter."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TINY = """
workdir: {workdir}
seed: 3
model: {{preset: debug, n_layers: 2}}
data: {{path: {text}, holdout: 0.2, length: 32, workers: 0}}
training: {{steps: 24, batch_size: 8, log_every: 1}}
schedule: {{kind: cosine, lr: 3e-3, warmup: 0.1}}
eval: {{every: 8}}
checkpoint: {{every: 5, keep_last: 2}}
logging: {{tensorboard: false}}
"""


def write_config(folder: Path, name: str = "run", text: Path | None = None) -> Path:
    """A config of a run of seconds in `folder`/NAME, on a text made here."""
    if text is None:
        text = folder / "text.txt"
        text.write_text("".join(f"The square of {i} is {i * i}, and its cube is {i**3}. " for i in range(900)))
    config = folder / f"{name}.yaml"
    config.write_text(TINY.format(workdir=folder / name, text=text))
    return config


def environment(devices: int = 1) -> dict[str, str]:
    """Of a process with so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_collective_call_terminate_timeout_seconds=600"
    flags += " --xla_backend_optimization_level=0"  # tiny models: compiling takes longer than running
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(args: Sequence[str], devices: int = 1, **env: str) -> subprocess.Popen[str]:
    """`jaxrl-llm ARGS` with so many simulated devices; stdout and stderr together."""
    command = [sys.executable, "-m", "jaxrl_llm", *map(str, args)]
    return subprocess.Popen(
        command,
        env=environment(devices) | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Its output, once it has ended with this exit code."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def jaxrl(*args: object, code: int = 0, devices: int = 1, **env: str) -> str:
    """Run to its end; the output."""
    return finish(start([str(a) for a in args], devices, **env), code)


def rows(workdir: Path, split: str = "train") -> list[dict]:
    """Rows of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in found if row["split"] == split]


def stop_at(process: subprocess.Popen[str], workdir: Path, step: int, number: signal.Signals) -> None:
    """Send a signal as soon as the step was logged."""
    deadline = time.monotonic() + 200
    while not any(row["step"] >= step for row in rows(workdir)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
