"""`evaluate --suite task` from the command line, of a model that knows how answers look and guesses them."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.tasks.numbers import final_number
from tests.tiny import WORDS, Runs, train

KEYS = ("text", "answer", "right", "ended", "tokens")


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def problems(runs: Runs) -> list[str]:
    """The words of --task; half of the answers are 7."""
    rows = [{"question": f"{a} {b}?", "answer": f"#### {6 + i % 2}"} for i, (a, b) in enumerate(_pairs(24))]
    path = write(runs.folder / "problems.jsonl", rows)
    return ["--task", "gsm8k", f"path={path}", f"test_path={path}"]


@pytest.fixture(scope="module")
def guesser(runs: Runs) -> Path:
    """It says 7 in half of its answers, 6 in a quarter, and else nothing that can be read."""
    said = ["#### 7", "#### 7", "#### 6", "nut"]
    rows = [{"prompt": f"{a} {b}?", "completion": said[i % 4]} for i, (a, b) in enumerate(_pairs(48))]
    data = {"kind": "chat", "path": write(runs.folder / "guesses.jsonl", rows), "length": 96, "packing": "none"}
    training = {"steps": 40, "batch_size": 8, "log_every": 10}
    return train(runs.config("sft", runs.folder / "guesser.yaml", data=data, training=training))


def _pairs(n: int) -> list[tuple[str, str]]:
    pairs = list(itertools.combinations(WORDS, 2))
    random.Random(1).shuffle(pairs)
    return pairs[:n]


def evaluate(out: Path, model: Path, *words: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    command = ["evaluate", str(model), "--suite", "task", "--out", str(out), "--max-new-tokens", "12"]
    assert main([*command, *map(str, words)]) == 0
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    return json.loads((out / "report.json").read_text()), rows


def test_everything_that_can_be_asked(
    runs: Runs, guesser: Path, problems: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--n", 4, "--reward", runs("reward"), "--before", runs("sft"), "--seed", 5)
    figures, rows = evaluate(tmp_path / "out", guesser, *problems, *more)
    shown = capsys.readouterr().out
    assert len(rows) == len({row["question"] for row in rows}) == 24
    for row in rows:
        for answer in (row["greedy"], row["before"], *row["samples"]):
            assert answer["right"] == (answer["answer"] == row["value"])
            assert (answer["answer"] is None) == (final_number(answer["text"]) is None)
    greedy, before, gain, samples = (figures[name] for name in ("greedy", "before", "gain", "samples"))
    assert greedy["accuracy"] == np.mean([row["greedy"]["right"] for row in rows])
    assert greedy["parsed"] == np.mean([row["greedy"]["answer"] is not None for row in rows])
    assert greedy["length"] == np.mean([row["greedy"]["tokens"] for row in rows])
    assert 0.3 < greedy["accuracy"] <= 0.6
    assert (before["accuracy"], before["accuracy_of_parsed"]) == (0, None)
    assert gain["accuracy"] == greedy["accuracy"] == pytest.approx(gain["format"])  # words alone say nothing
    assert gain["reasoning"] == 0
    assert gain["interval"][0] < gain["accuracy"] < gain["interval"][1]

    right_BN = np.asarray([[each["right"] for each in row["samples"]] for row in rows])
    assert right_BN.shape == (24, 4)
    assert 0.1 < right_BN.mean() < 0.6
    assert samples["pass"]["1"]["rate"] == pytest.approx(right_BN.mean())
    assert samples["pass"]["4"]["rate"] == right_BN.any(axis=1).mean() > right_BN.mean()
    best = [max(row["samples"], key=lambda each: each["reward"]) for row in rows]
    assert samples["best_of"]["4"]["reward"] == pytest.approx(np.mean([each["reward"] for each in best]))
    assert samples["best_of"]["1"]["accuracy"] == pytest.approx(right_BN.mean())
    assert len({each["reward"] for row in rows for each in row["samples"]}) > 24
    alike = {(row["question"], each["text"]): each["reward"] for row in rows for each in row["samples"]}
    for row in rows:
        for each in row["samples"]:
            assert each["reward"] == pytest.approx(alike[row["question"], each["text"]], abs=1e-5)

    line = next(line for line in shown.splitlines() if " after " in line)
    assert f" {100 * greedy['accuracy']:.2f} " in line
    line = next(line for line in shown.splitlines() if line.startswith("│ 4 "))
    assert f" {100 * samples['pass']['4']['rate']:.2f} " in line
    assert "24 problems of the test split (seed 5), asked by the template of the model; answers of up to 12" in shown
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| **gain** | +" in report
    assert "| &emsp;reasoning | +0.00 |" in report
    assert "![Problems solved with k samples](plots/samples.png)" in report
    assert (tmp_path / "out" / "plots" / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_the_best_of_n_of_a_task(runs: Runs, guesser: Path, problems: list[str], tmp_path: Path) -> None:
    """Right answers are counted by the grader; another policy that knows no answer has none."""
    out, more = tmp_path / "out", ["--n", "2", "--max-new-tokens", "12", "--reward", str(runs("reward"))]
    words = [*problems, *more, "--against", str(runs("sft")), "--out", str(out)]
    assert main(["evaluate", str(guesser), "--suite", "best-of-n", *words]) == 0
    figures = json.loads((out / "report.json").read_text())
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    right_BM = np.asarray([[each["right"] for each in row["samples"]] for row in rows])
    assert right_BM.shape == (24, 3)
    assert figures["best_of"]["1"]["accuracy"] == pytest.approx(right_BM.mean())
    assert 0.1 < right_BM.mean() < 0.6
    run = figures["runs"]["sft"]
    assert run["accuracy"] == 0
    assert run["wins"]["grade"]["rate"] == pytest.approx((1 - right_BM.mean()) / 2)
    assert run["kl"] > 1
    assert (out / "plots" / "accuracy.png").is_file()


def test_the_task_is_that_of_the_models_own_config(
    guesser: Path, problems: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(guesser), "--suite", "task"]) == 2
    assert "its config has no tasks" in capsys.readouterr().err
    config = guesser / "config.yaml"
    before, path = config.read_text(), problems[2].removeprefix("path=")
    try:
        task = f"{{kind: gsm8k, path: {path}, test_path: {path}}}"
        config.write_text(before.replace("  tasks: {}", f"  tasks: {{nuts: {{task: {task}, problems: 5}}}}"))
        own, rows = evaluate(tmp_path / "own", guesser, "--problems", 7)
    finally:
        config.write_text(before)
    assert (own["task"]["path"], len(rows)) == (path, 7)
    assert "plots" not in (tmp_path / "own" / "report.md").read_text()
    _, again = evaluate(tmp_path / "asked", guesser, *problems, "--problems", 7)
    assert [row["greedy"] for row in again] == [row["greedy"] for row in rows]
    assert own["samples"] is own["gain"] is None
    assert "gain" not in capsys.readouterr().out


def test_what_is_refused(
    runs: Runs, guesser: Path, problems: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object, model: Path = guesser) -> str:
        assert main(["evaluate", str(model), "--suite", "task", *map(str, words)]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        return message

    assert "--data is of --suite rewardbench and perplexity" in refused("--data", "x.jsonl")
    assert "--beta is of --suite rewardbench, and this is task" in refused("--beta", "1")
    assert "--problems must be at least 1" in refused("--problems", "0")
    assert "mend: --n 8" in refused(*problems, "--temperature", "1")
    assert "mend: --n 8" in refused(*problems, "--n", "1", "--reward", runs("reward"))
    assert "--task sums: there is no such task; there are arithmetic, gsm8k" in refused("--task", "sums")
    assert "command line: task: difficulty is 1 to 8" in refused("--task", "arithmetic", "difficulty=[3,2]")
    assert "'task.largest' is no override" in refused("--task", "arithmetic", "largest")
    assert "task.path: is missing" in refused("--task", "gsm8k")
    assert "has no problems to test on" in refused("--task", "gsm8k", problems[2])
    assert "25 problems are asked for, and it has 24" in refused(*problems, "--problems", "25")
    assert "exceeds the context of 128" in refused(*problems, "--max-new-tokens", "120")
    lone = (*problems, "--max-new-tokens", "4", "--n", "2")
    assert "holds a language model, and a reward model is wanted" in refused(*lone, "--reward", runs("sft"))
    assert "no language model" in refused(*problems, model=runs("reward"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrl_llm.task_evaluation.answer", lambda *_, **__: pytest.fail("answered"))
        assert "nowhere: there is no run" in refused(*problems, "--before", tmp_path / "nowhere")
    assert main(["evaluate", str(guesser), "--suite", "perplexity"]) == 2
    assert "--suite perplexity needs --data" in capsys.readouterr().err
