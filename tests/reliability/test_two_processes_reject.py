"""Two processes of four devices generate, rate, choose and evaluate as one of eight does, and one of them writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxrl_llm.cli import main
from tests.launcher import environment, finish
from tests.reliability.audited import written
from tests.reliability.test_two_processes import addresses
from tests.tiny import Runs


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def on_two_processes(folder: Path, *args: str) -> list[str]:
    """`jaxrl-llm ARGS`; what each says.  Of what is below the folder, process 1 has written nothing."""
    command, env = [sys.executable, "-m", "tests.reliability.audited"], environment(4) | addresses()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    logs = [folder.parent / f"log_{args[0]}_{number}" for number in range(2)]
    processes = [
        subprocess.Popen([*command, str(log), *args], env=env | {"JAX_PROCESS_ID": str(number)}, **pipes)
        for number, log in enumerate(logs)
    ]
    outputs = [finish(process) for process in processes]
    assert written(logs[0], folder)
    assert not written(logs[1], folder), "process 0 writes for all"
    return outputs


def test_two_processes_choose_as_one_does(runs: Runs, tmp_path: Path) -> None:
    """Every host draws and rates alike; one of them writes."""
    config = {
        "prompts": {"path": str(Path(runs("sft")).parent / "asks.jsonl"), "limit": 6},
        "models": {"policy": {"path": str(runs("sft"))}},
        "sampling": {"n": 4, "max_new_tokens": 8, "slots": 8, "prompts": 4},
        "rewards": {"parts": {"likes": {"kind": "model", "path": str(runs("reward"))}}},
        "keep": {"ended": False},
        "pairs": {"kind": "best_worst"},
        "mesh": {"data": 2, "fsdp": 4},
    }
    paths = {}
    for name in ("one", "two"):
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(config | {"workdir": str(tmp_path / name)}))
    outputs = on_two_processes(tmp_path / "two", "reject", str(paths["two"]))
    assert "done: " in outputs[0]
    assert "done: " not in outputs[1]
    assert main(["reject", str(paths["one"])]) == 0
    for name in ("sft.jsonl", "pairs.jsonl"):
        ours, theirs = read(tmp_path / "two" / name), read(tmp_path / "one" / name)
        for a, b in zip(ours, theirs, strict=True):
            scores = [key for key in a if "score" in key]
            assert [a.pop(key) for key in scores] == pytest.approx([b.pop(key) for key in scores], abs=1e-4)
            assert a == b


def test_two_processes_generate_as_one_does(runs: Runs, tmp_path: Path) -> None:
    asks = str(Path(runs("sft")).parent / "asks.jsonl")
    args = ["generate", str(runs("sft")), "--prompts", asks, "--n", "2", "--max-new-tokens", "8", "--out"]
    (tmp_path / "two").mkdir()
    outputs = on_two_processes(tmp_path / "two", *args, str(tmp_path / "two" / "out.jsonl"))
    assert "completions -> " in outputs[0]
    assert "completions -> " not in outputs[1]
    assert main([*args, str(tmp_path / "one.jsonl")]) == 0
    for ours, theirs in zip(read(tmp_path / "two" / "out.jsonl"), read(tmp_path / "one.jsonl"), strict=True):
        assert ours.pop("logp") == pytest.approx(theirs.pop("logp"), abs=1e-5)
        assert ours == theirs


def test_two_processes_take_the_best_of_n_as_one_does(runs: Runs, tmp_path: Path) -> None:
    """And report it once."""
    asks = str(Path(runs("sft")).parent / "asks.jsonl")
    args = ["evaluate", str(runs("sft")), "--suite", "best-of-n", "--reward", str(runs("reward")), "--data", asks]
    args += ["--n", "2", "--problems", "6", "--max-new-tokens", "8", "--batch-size", "8", "--out"]
    (tmp_path / "two").mkdir()
    outputs = on_two_processes(tmp_path / "two", *args, str(tmp_path / "two" / "out"))
    assert "report.md" in outputs[0]
    assert "report.md" not in outputs[1]
    assert main([*args, str(tmp_path / "one")]) == 0
    ours, theirs = (
        json.loads((out / "report.json").read_text()) for out in (tmp_path / "two" / "out", tmp_path / "one")
    )
    assert ours["best_of"]["2"]["reward"] == pytest.approx(theirs["best_of"]["2"]["reward"], abs=1e-4)
