"""GSM8K: every gold answer is graded right, any other number wrong, and what is no such file is refused by its line."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.gsm8k import Gsm8kConfig, read
from jaxrl_llm.tasks.task import Example, grade_number

ROWS = [
    {"question": f"How much is {i}+1?", "answer": f"{i}+1=<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"} for i in range(5)
]


def write(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_every_gold_answer_is_right_and_right_alone(shared_data: Path) -> None:
    examples = read(shared_data / "gsm8k" / "train.jsonl")
    assert len(examples) == 7473
    for example in examples:
        # read here by other means: what follows the marks, its commas left out
        gold = int(example.answer.split("#### ")[1].replace(",", ""))
        assert example.value == gold
        assert grade_number(example.answer, example) == 1.0
        head = example.answer.rpartition("####")[0]
        assert grade_number(f"{head}####${gold:,}.00.", example) == 1.0
        assert grade_number(f"{head}#### {gold + 1}", example) == 0.0
        assert grade_number(f"{head}#### {gold}1", example) == 0.0
        assert grade_number(head, example) == 0.0


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("#### 1234", 1.0),
        ("so it is <<1+1233=1234>>1234.\n#### 1,234", 1.0),
        ("####1234\n\nQuestion: another", 1.0),
        ("#### $1,234.00 apples", 1.0),
        ("#### 1234.", 1.0),
        ("#### 1,234.0.", 1.0),
        ("#### 1234%", 1.0),
        ("#### 1234apples", 1.0),
        ("#### 01234", 1.0),
        ("#### 7\nno:\n#### 1234", 1.0),
        ("#### 1234\nno:\n#### 7", 0.0),
        ("#### 1234\n####", 0.0),
        ("1234", 0.0),
        ("### 1234", 0.0),
        ("#### -1234", 0.0),
        ("#### -$1234", 0.0),
        ("#### $-1234", 0.0),
        ("#### 1234.5", 0.0),
        ("#### .1234", 0.0),
        ("#### 12345", 0.0),
        ("#### 12,34", 0.0),
        ("#### 1,2345", 0.0),
        ("#### 1234,5", 0.0),
        ("#### 1 234", 0.0),
        ("#### the number is 1234", 0.0),
        ("#### nan", 0.0),
        ("#### inf", 0.0),
        ("#### 1e999", 0.0),
        ("#### " + "9" * 10_000, 0.0),
        ("#### 1234." + "0" * 10_000, 0.0),
        ("#### ١٢٣٤", 0.0),
        ("", 0.0),
    ],
)
def test_grade(completion: str, score: float) -> None:
    assert grade_number(completion, Example("", "", Fraction(1234))) == score


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("#### -$0.50", "-1/2"),
        ("#### $-3", "-3"),
        ("#### .5", "1/2"),
        ("#### 2.50 m", "5/2"),
        ("#### 10,000,000", "10000000"),
    ],
)
def test_other_values(completion: str, value: str) -> None:
    assert grade_number(completion, Example("", "", Fraction(value))) == 1.0
    assert grade_number(completion, Example("", "", Fraction(value) + 1)) == 0.0


def test_what_parses(tmp_path: Path) -> None:
    task = build_task(Gsm8kConfig(path="unread.jsonl"))
    assert task.parse("#### 1,234.0") == task.parse("####1234") == 1234
    assert [task.parse(text) is not None for text in ("#### 0", "#### nothing", "#### 12,34", "12", "")] == [
        True,
        *[False] * 4,
    ]
    assert task.parse("#### " + "9" * 10_000) is None


def test_examples_are_shuffled_by_seed_and_training_goes_round(tmp_path: Path) -> None:
    task = build_task(
        Gsm8kConfig(path=write(tmp_path / "train.jsonl", [*ROWS]), test_path=write(tmp_path / "b", ROWS[:3]))
    )
    assert (task.size("train"), task.size("test")) == (5, 3)
    once = task.examples("train", 5, 0)
    assert {each.origin for each in once} == {f"{tmp_path / 'train.jsonl'}:{line}" for line in range(1, 6)}
    assert any(task.examples("train", 5, seed) != once for seed in range(1, 5))
    more = task.examples("train", 12, 0)
    assert more[:5] == once == task.examples("train", 7, 0)[:5]
    assert sorted(each.question for each in more[5:10]) == sorted(each.question for each in once)
    assert len(more) == 12
    assert len({each.question for each in task.examples("test", 3, 0)}) == 3
    with pytest.raises(UserError, match="4 problems are asked for, and it has 3"):
        task.examples("test", 4, 0)


def test_a_task_without_a_test_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set its `test_path`"):
        build_task(Gsm8kConfig(path=write(tmp_path / "a.jsonl", [*ROWS]))).examples("test", 1, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a JSON row"),
        ("[" * 100_000, "not a JSON row"),
        ("[1]", "expected an object with the texts"),
        ('{"question": "1+1?"}', "expected an object with the texts"),
        ('{"question": " ", "answer": "#### 2"}', "expected an object with the texts"),
        ('{"question": "1+1?", "answer": 2}', "expected an object with the texts"),
        ('{"question": "1+1?", "answer": "2"}', 'no number after "####"'),
        ('{"question": "1+1?", "answer": "#### two"}', 'no number after "####"'),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\ufeff{json.dumps(ROWS[0])}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}:3: {re.escape(said)}"):
        read(path)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.jsonl").write_bytes(b'{"question": "caf\xe9"}')
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name, said in (
        ("latin1.jsonl", "not UTF-8, at byte 17"),
        ("empty.jsonl", "there is no problem in it"),
        ("absent.jsonl", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / name)
