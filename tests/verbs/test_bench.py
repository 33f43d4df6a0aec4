"""`bench` of stages that read conversations and judged answers: random data through the stage's own source and step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from jaxrl_llm.cli import main
from tests.tiny import Runs

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(runs: Runs, capsys: pytest.CaptureFixture[str]) -> Bench:
    """bench(what, name of a tiny stage, *words) -> exit code, output, error."""

    def bench(what: str, name: str, *words: str) -> tuple[int, str, str]:
        config = str(runs.config(name, runs.folder / "benched" / f"{name}.yaml"))
        capsys.readouterr()
        code = main(["bench", what, config, *words])
        return code, *capsys.readouterr()

    return bench


@pytest.mark.parametrize(
    ("what", "name", "batch"),
    [
        ("sft", "sft", "of 20 + 30 tokens in 8 rows of 96"),
        ("dpo", "dpo_cached", "of 20 + 2 x 20 tokens in 8 rows of 64"),
        ("train", "kto", "of 20 + 20 tokens in 8 rows of 64"),
    ],
)
def test_the_step_is_measured(what: str, name: str, batch: str, bench: Bench) -> None:
    answer = "30" if what == "sft" else "20"
    words = ["--steps", "1", "--warmup", "1", "--prompt-length", "20", "--answer-length", answer]
    code, out, _ = bench(what, name, *words)
    assert code == 0
    assert batch in " ".join(out.replace("│", " ").split())


def test_the_loop_may_have_more_steps_than_the_run(bench: Bench) -> None:
    code, out, _ = bench("loop", "dpo_cached", "--steps", "6")
    assert code == 0
    assert "over 5 steps that do nothing" in out


def test_what_is_not_there_to_be_measured(bench: Bench) -> None:
    code, _, error = bench("dpo", "sft")
    assert (code, "algo.kind=sft" in error) == (2, True)
    code, _, error = bench("train", "sft", "--prompt-length", "90", "--answer-length", "7")
    assert (code, "data.length=97 or more" in error) == (2, True)


def test_rejection_is_measured_beside_its_sampler(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reject.yaml"
    config = {
        "workdir": str(tmp_path / "reject"),
        "prompts": {"path": str(Path(runs("sft")).parent / "asks.jsonl"), "limit": 4},
        "models": {"policy": {"path": str(runs("sft"))}},
        "sampling": {"n": 4, "max_new_tokens": 8, "slots": 8},
        "rewards": {"parts": {"likes": {"kind": "model", "path": str(runs("reward"))}}},
        "mesh": {"data": 1, "fsdp": 8},
    }
    path.write_text(yaml.safe_dump(config))
    assert main(["bench", "reject", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "prompts run 4 for 16 answers" in out
    assert "% of the sampler's own" in out
    assert not (tmp_path / "reject").exists()
    assert main(["bench", "reject", str(path), "models={}", "candidates=a.jsonl"]) == 2
    assert "measures models that answer prompts" in capsys.readouterr().err
