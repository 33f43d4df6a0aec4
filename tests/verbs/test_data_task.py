"""`data task`, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.data.prompts import read_prompts
from jaxrl_llm.tasks.arithmetic import pair_rows, problems

Write = Callable[..., list[Any]]
GSM8K = [{"question": f"What is {i}/4?", "answer": f"It is <<{i}/4={i / 4}>>{i / 4}.\n#### {i / 4}"} for i in range(6)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(kind: str, *arguments: str) -> list[Any]:
        out = tmp_path / "sub" / "rows.jsonl"
        assert main(["data", "task", kind, str(out), "--force", *arguments]) == 0
        assert [file.name for file in out.parent.iterdir()] == ["rows.jsonl"]
        return [json.loads(line) for line in out.read_text().splitlines()]

    return write


@pytest.fixture
def gsm8k(tmp_path: Path) -> str:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    return str(path)


def test_rows_to_fine_tune_on(write: Write) -> None:
    def wanted(*authored: Any) -> list[dict[str, str]]:
        return [{"prompt": each.question, "completion": each.answer} for each in problems(*authored)]

    assert write("arithmetic", "--rows", "sft", "-n", "30", "difficulty=1") == wanted(30, 0)
    forgetful = ["--split", "test", "difficulty=[1,2]", "largest=300", "forgets=0.7", "--seed", "3", "-n", "30"]
    assert write("arithmetic", "--rows", "sft", *forgetful) == wanted(30, 3, "test", (1, 2), 300, 0.7)
    varied = wanted(30, 3, "test", (1, 2), 300, 0.7, True)
    assert write("arithmetic", "--rows", "sft", *forgetful, "varied=true") == varied
    assert varied != wanted(30, 3, "test", (1, 2), 300, 0.7)


def test_pairs(write: Write) -> None:
    found = write(
        "arithmetic", "-n", "20", "--rows", "pairs", "--seed", "5", "difficulty=2", "largest=90", "forgets=.7"
    )
    assert found == list(pair_rows(20, 5, "train", 2, 90, 0.7))


def test_problems_are_prompts_with_their_values(write: Write, tmp_path: Path) -> None:
    found = write("arithmetic", "--rows", "problems", "--split", "test", "-n", "20")
    wanted = list(problems(20, 0, "test", (1, 3)))
    assert found == [{"prompt": each.question, "answer": each.answer, "value": each.value} for each in wanted]
    assert read_prompts(tmp_path / "sub" / "rows.jsonl") == [each.question for each in wanted]


def test_a_task_without_end_has_ten_thousand_rows(write: Write) -> None:
    assert len(write("arithmetic", "--rows", "pairs", "difficulty=1")) == 10_000


def test_a_task_of_a_file(write: Write, gsm8k: str) -> None:
    found = write("gsm8k", "--rows", "sft", f"path={gsm8k}")
    assert sorted(found, key=str) == [{"prompt": row["question"], "completion": row["answer"]} for row in GSM8K]
    assert found != write("gsm8k", "--rows", "sft", f"path={gsm8k}", "--seed", "1")
    tested = write("gsm8k", "--rows", "problems", f"path={gsm8k}", f"test_path={gsm8k}", "--split", "test", "-n", "4")
    assert len(tested) == 4
    assert all(row["prompt"] == f"What is {row['value'] * 4:.0f}/4?" for row in tested)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("arithmetics --rows sft", "did you mean arithmetic?"),
        ("chess --rows sft", "there is: arithmetic, gsm8k"),
        ("arithmetic --rows sft forget=0.7", "forget: unknown key, did you mean forgets"),
        ("arithmetic --rows pairs varied=true", "varied=true is of answers"),
        ("arithmetic --rows sft varied=1", "varied: expected true or false, found the number 1"),
        ("arithmetic --rows sft forgets=1.5", "forgets: expected at most 1, found the number 1.5"),
        ("arithmetic --rows problems difficulty=[3,1]", "not [3, 1]"),
        ("arithmetic --rows problems difficulty=x", "difficulty: "),
        ("arithmetic --rows sft -n 0", "--examples 0: at least 1"),
        ("gsm8k --rows pairs path=GSM8K", "gsm8k has one answer a problem"),
        ("gsm8k --rows sft", "path: is missing"),
        ("gsm8k --rows sft path=nowhere.jsonl", "nowhere.jsonl: cannot be read"),
        ("gsm8k --rows sft path=GSM8K -n 7", "--examples 7: gsm8k has 6 problems of the split train"),
        ("gsm8k --rows sft path=GSM8K --split test", "set its `test_path`"),
    ],
)
def test_what_cannot_be_is_refused_and_the_file_kept(
    arguments: str, said: str, tmp_path: Path, gsm8k: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("old")
    kind, *rest = arguments.replace("GSM8K", gsm8k).split()
    assert main(["data", "task", kind, str(out), "--force", *rest]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert said in shown
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_overwritten_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("old")
    assert main(["data", "task", "arithmetic", str(out), "--rows", "sft", "-n", "3"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "old"
