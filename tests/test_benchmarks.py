"""`bench` of rollouts: whole rounds of what `train` builds, and how long their parts take."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.benchmarks import rollouts
from jaxrl_llm.cli import main
from jaxrl_llm.config import Config
from jaxrl_llm.training.loop import fit
from tests.tiny import MODEL, write_config

Bench = Callable[..., tuple[int, str, str]]
PPO: dict[str, Any] = {
    "model": MODEL,
    "algo": {"kind": "ppo", "ptx_weight": 1.0},
    "data": {
        "kind": "prompts",
        "task": {"kind": "arithmetic"},
        "pretrain": {"path": "nowhere.txt"},
        "pretrain_length": 16,
    },
    "rollout": {
        "prompts": 4,
        "n": 2,
        "max_new_tokens": 16,
        "epochs": 2,
        "stop_kl": 1e-9,
        "rewards": {"parts": {"rm": {"kind": "model", "path": "nowhere"}, "grade": {"kind": "task"}}},
    },
    "training": {"batch_size": 4},
}
SHORT = ["--prompt-length", "13", "--answer-length", "7"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """bench(what, *words) of PPO on one device -> exit code, output, error."""
    config = str(write_config(tmp_path / "ppo.yaml", PPO))

    def on_one(config: Config) -> Assembly:
        return assemble(config, jax.devices()[:1])

    monkeypatch.setattr(rollouts, "assemble", on_one)

    def bench(what: str, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["bench", what, config, *words])
        out, error = capsys.readouterr()
        return code, " ".join(out.replace("│", " ").split()), error

    return bench


def test_rounds_are_measured_and_divided(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones, of answers of the length asked for, rated by a model that nobody has and by a grader."""
    updates: list[np.ndarray] = []
    distances: list[float] = []
    rounds: list[int] = []

    def watched(state: Any, step: Any, source: Any, *rest: Any) -> Any:
        def recorded(state: Any, batch: Any) -> Any:
            updates.append(np.asarray(batch.tokens.weights_BT.sum(axis=-1)))
            assert batch.tokens.weights_BT.shape == (1, 4, 24)  # 13 + 7, a multiple of 8
            assert batch.pretrain.inputs_BT.shape == (1, 4, 16)
            assert not batch.ended_B.any()
            state, metrics = step(state, batch)
            distances.append(float(metrics["approx_kl"]))
            assert metrics["score_std"] > 0  # the reward model tells answers apart
            return state, metrics

        state = fit(state, recorded, source, *rest)
        rounds.append(source.state()[0]["round"])
        return state

    monkeypatch.setattr(rollouts, "fit", watched)
    code, out, error = bench("ppo", "--rounds", "2", "--warmup", "1", *SHORT)
    assert code == 0, error
    assert rounds == [1, 2, 3]  # though stop_kl would end them early
    assert len(updates) == 3 * 4
    assert all((each == 7).all() for each in updates)
    assert max(distances[0::4] + distances[1::4] + distances[2::4]) > 1e-9
    assert "4 prompts of 13 x 2 answers of 7, 2 epoch(s) x 2 mini-batch(es) of 4 in 1 piece(s)" in out
    assert "trained: policy, value; read: ref; rewards: grade (task), rm (model)" in out

    def seconds(name: str) -> float:
        found = re.search(rf"(?<!first) {name} ([\d.]+) s", out)
        assert found is not None, name
        return float(found[1])

    parts = [seconds(name) for name in ("sample", "score", "prepare", "update")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(seconds("round"), abs=1e-3)
    shares = [float(share) for share in re.findall(r" s, ([\d.]+) %", out)]
    assert (len(shares), sum(shares)) == (4, pytest.approx(100, abs=0.3))


@pytest.mark.parametrize(
    ("what", "words", "message"),
    [
        ("ppo", ["--prompt-length", "100", "--answer-length", "29"], "are more than model.context=128"),
        ("ppo", ["--rounds", "0"], "--rounds must be at least 1"),
        (
            "ppo",
            [*SHORT, *(f"rollout.rewards.parts.{name}.kind=length" for name in ("rm", "grade"))],
            "nothing rates the answers",
        ),
        ("grpo", [], "has algo.kind=ppo, which `bench grpo` does not measure\n  mend: bench ppo"),
        ("train", [], "has algo.kind=ppo, which `bench train` does not measure\n  mend: bench ppo"),
        ("loop", [], "has algo.kind=ppo, which `bench loop` does not measure\n  mend: bench ppo"),
        ("dpo", [], "has algo.kind=ppo, which `bench dpo` does not measure\n  mend: bench ppo"),
        (
            "ppo",
            [*SHORT, "data.task.kind=gsm8k", "data.task.path=nowhere.jsonl"],
            "nowhere.jsonl",
        ),
    ],
)
def test_what_cannot_be_measured(bench: Bench, what: str, words: list[str], message: str) -> None:
    code, _, error = bench(what, *words)
    assert code == 2, error
    assert message in error
