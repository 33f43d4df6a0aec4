"""Candidates from files: both kinds of rows, put together by prompt, and what is none of them is named by its line."""

import json
from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.candidates import POOL, Answer, Group, read_candidates

ASKED = [{"role": "user", "content": "2+2?"}]
POOLED = {
    "prompt": ASKED,
    "answers": ["4", "", "5"],
    "models": ["policy", "old", None],
    "scores": [1.25, -3, None],
    "right": [True, False, None],
    "ended": [True, True, False],
    "tokens": [2, 1, 64],
    "origin": "problems.jsonl:7",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_row_of_a_pool(tmp_path: Path) -> None:
    path = write(tmp_path / POOL, POOLED)
    answers = (
        Answer("4", "policy", 1.25, True, True, 2),
        Answer("", "old", -3.0, False, True, 1),
        Answer("5", None, None, None, False, 64),
    )
    assert read_candidates(path) == [Group(tuple(ASKED), answers, f"{path}:1")]
    assert read_candidates(tmp_path) == read_candidates(path)  # the directory of a run


def test_answers_alone_are_enough(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", {"prompt": "2+2=", "answers": ["4"]}, {"instruction": "Add.", "responses": ["4"]}
    )
    text, asked = read_candidates(path)
    assert text == Group("2+2=", (Answer("4"),), f"{path}:1")
    assert asked == Group(({"role": "user", "content": "Add."},), (Answer("4"),), f"{path}:2")


def test_rows_of_generate_are_put_together_by_prompt(tmp_path: Path) -> None:
    def row(prompt: object, completion: str, tokens: list[int]) -> dict[str, object]:
        common = {"ended": True, "logp": [-0.5] * len(tokens), "model": "runs/sft"}
        return {"prompt": prompt, "completion": completion, "tokens": tokens, **common}

    rows = [row("2+2?", "4", [7, 2]), row(ASKED, "5", [8, 2]), row("2+2?", "", [2]), row(ASKED, "6", [9, 9, 2])]
    path = write(tmp_path / "b.jsonl", *rows, {"prompt": "2+2?", "answers": ["3", "2"]})
    text, asked = read_candidates(path)
    assert [(each.text, each.tokens, each.model) for each in text.answers] == [
        ("4", 2, "runs/sft"),
        ("", 1, "runs/sft"),
        ("3", None, None),
        ("2", None, None),
    ]
    assert (text.prompt, text.origin, asked.origin) == ("2+2?", f"{path}:1", f"{path}:2")
    assert asked == Group(
        tuple(ASKED),
        (Answer("5", "runs/sft", ended=True, tokens=2), Answer("6", "runs/sft", ended=True, tokens=3)),
        f"{path}:2",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "expected `prompt` or"),
        ({"prompt": 3}, "`prompt`: expected a string"),
        ({"prompt": [*ASKED, {"role": "assistant", "content": "4"}]}, "the assistant's turn is the last one already"),
        ({"answers": None}, "expected `answers` or `responses` or `output` or `completion`"),
        ({"answers": []}, "`answers`: expected a list of answers, one or more, found []"),
        ({"answers": "4"}, "`answers`: expected a list of answers"),
        ({"answers": ["4", 5, "6"]}, "`answers[1]`: expected a string, found 5"),
        ({"answers": ["4", "\ud800", "6"]}, "`answers[1]`: half of a surrogate pair"),
        ({"models": ["a", "b"]}, "`models`: expected a list of 3, one for each answer, found"),
        ({"models": "a"}, "`models`: expected a list of 3"),
        ({"models": ["a", "b", 3]}, "`models[2]`: expected a string, found 3"),
        ({"scores": [1, 2]}, "`scores`: expected a list of 3"),
        ({"scores": [1, 2, float("nan")]}, "`scores[2]`: expected a number, found NaN"),
        ({"scores": [1, float("-inf"), 2]}, "`scores[1]`: expected a number, found -Infinity"),
        ({"scores": [1, "2", 3]}, "`scores[1]`: expected a number, found"),
        ({"scores": [1, True, 3]}, "`scores[1]`: expected a number, found true"),
        ({"right": [1, 0, 1]}, "`right[0]`: expected true or false, found 1"),
        ({"ended": [True, "yes", True]}, "`ended[1]`: expected true or false"),
        ({"ended": True}, "`ended`: expected a list of 3"),
        ({"tokens": [1, 2]}, "`tokens`: expected a list of 3"),
        ({"tokens": [1, 2, -1]}, "`tokens[2]`: expected a number of tokens"),
        ({"tokens": [1, 2.5, 3]}, "`tokens[1]`: expected a number of tokens"),
        ({"tokens": [1, True, 3]}, "`tokens[1]`: expected a number of tokens"),
        ({"answers": None, "completion": ["4"]}, "`completion`: expected a string"),
        ({"answers": None, "completion": "4", "ended": 1}, "`ended`: expected true or false, found 1"),
        ({"answers": None, "completion": "4", "ended": None, "right": None, "model": 3}, "`model`: expected a string"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write(tmp_path / "a.jsonl", POOLED, POOLED | change)
    if "completion" in change:
        path = write(path, POOLED, {"prompt": "2+2?"} | change)
    with pytest.raises(UserError) as error:
        read_candidates(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert said in str(error.value)
    assert "\n  mend: " in str(error.value) or "already" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"\n \n", "there is no row in it\n  mend: rows of candidates are"),
        (b"{\n", ":1: not a JSON row"),
        (b"[1]\n", ":1: a row is a JSON object"),
        (b'{"prompt": "caf\xe9", "answers": ["a"]}\n', ":1: not a JSON row: 'utf-8' codec"),
        (b"[" * 100_000, ":1: not a JSON row"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_candidates(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_what_is_not_there_or_has_no_known_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.jsonl: cannot be read: no such file\n  mend: "):
        read_candidates(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=f"{POOL}: cannot be read: no such file"):
        read_candidates(tmp_path)
    (tmp_path / "a.txt").write_text("2+2?")
    with pytest.raises(UserError, match=r"a.txt: the name does not tell its format"):
        read_candidates(tmp_path / "a.txt")
