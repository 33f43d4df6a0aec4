"""Two processes of four devices draw, rate and choose what one process of eight does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxrl_llm.cli import main
from tests.reliability.test_two_processes import on_two_processes
from tests.tiny import Runs


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    outputs = on_two_processes("reject", str(paths["two"]))
    assert "done: " in outputs[0]
    assert "done: " not in outputs[1]
    assert main(["reject", str(paths["one"])]) == 0
    for name in ("sft.jsonl", "pairs.jsonl"):
        ours, theirs = read(tmp_path / "two" / name), read(tmp_path / "one" / name)
        for a, b in zip(ours, theirs, strict=True):
            scores = [key for key in a if "score" in key]
            assert [a.pop(key) for key in scores] == pytest.approx([b.pop(key) for key in scores], abs=1e-4)
            assert a == b
