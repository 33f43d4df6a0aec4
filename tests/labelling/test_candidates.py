"""What is there to be labelled: rows, what is shown of them, and in which order."""

from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.labelling.candidates import read_candidates, shown, shown_order
from tests.labelling.made import USER, item, read, says


def test_the_three_kinds_of_rows(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"prompt": USER, "answers": ["Rhine", [{"role": "assistant", "content": "Po"}]], "id": 7, "safety": True},
        {"prompt": "2+2?", "completion": "4", "ended": True, "tokens": [1]},
        {"prompt": "3+3?", "completion": "6", "model": "small"},
        {"prompt": "2+2?", "completion": "5", "ended": True, "tokens": [2]},
        {"prompt": "3+3?", "completion": "7", "model": "large"},
        {"prompt": "hi", "chosen": "Hello", "rejected": "Go away", "subset": "greetings", "models": None},
    )
    prompts = ["Name a river.", "2+2?", "3+3?", "hi"]
    answers = [("Rhine", "Po"), ("4", "5"), ("6", "7"), ("Hello", "Go away")]
    assert [each.prompt for each in found.items] == [says(text, "user") for text in prompts]
    assert [each.answers for each in found.items] == [tuple(map(says, texts)) for texts in answers]
    assert [each.models for each in found.items] == [None, None, ("small", "large"), None]
    assert [dict(each.tags) for each in found.items] == [{"safety": True}, {}, {}, {"subset": "greetings"}]
    assert found.items[0].id == "7"
    assert found.items[1].origin.endswith("c.jsonl:2")


def test_answers_that_look_alike_are_shown_once_and_empty_ones_never(tmp_path: Path) -> None:
    row = {"prompt": "p", "answers": ["a", "b", "a \n", "b", " ", "c"], "models": list("uvwxyz")}
    [found] = read(tmp_path, row).items
    assert found.answers == tuple(map(says, "abc"))
    assert found.sources == (0, 1, 5)
    assert found.models == ("u = w", "v = x", "z")


def test_a_repeated_row_is_asked_once(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    other = {"prompt": "p", "chosen": "b", "rejected": "a"}
    found = read(tmp_path, pair, other, pair)
    assert found.repeated == 1
    assert len({each.id for each in found.items}) == 2


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "answers": ["a"]}, "`answers`: expected a list of two"),
        ({"prompt": "p", "completion": "a"}, "one answer alone"),
        ({"prompt": "p", "answers": "ab"}, "`answers`: expected a list of two"),
        ({"prompt": "p", "answers": ["a", 3]}, "`answers[1]`: expected a string"),
        ({"prompt": "p", "answers": ["a", USER]}, "expected after the prompt an answer"),
        ({"prompt": [], "answers": ["a", "b"]}, "`prompt`: expected a string"),
        (
            {"prompt": "p", "answers": ["a", "b"], "models": ["m"]},
            '`models`: expected 2 names, one an answer, found ["m"]',
        ),
        ({"prompt": "p", "answers": ["a", "b"], "models": 3}, "`models`: expected 2 names"),
        ({"prompt": "p", "answers": ["a", "b"], "safety": "yes"}, "`safety`: expected true"),
        ({"prompt": "p", "completion": "a", "model": 3}, "`model`: expected a name, found 3"),
        ({"prompt": "p", "completion": "a", "label": True}, "the columns are prompt, completion, label"),
        ({"question": "p"}, "the columns are question"),
        ({}, "the columns are none"),
        (["p"], "a row is a JSON object"),
    ],
)
def test_rows_of_the_wrong_form_name_file_and_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, PAIR, row)
    assert str(error.value).startswith(f"{tmp_path / 'c.jsonl'}:2: ")
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content in {
        "a.jsonl": b'{"prompt"',
        "b.jsonl": b"\xff\xfe{}\n",
        "c.jsonl": b"",
        "d.jsonl": b"\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_candidates(tmp_path / name)
    with pytest.raises(UserError, match="nowhere"):
        read_candidates(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"c.jsonl:2: the id 'x' is that of .*c.jsonl:1 already"):
        read(tmp_path, {**PAIR, "id": "x"}, {**PAIR, "id": "x", "prompt": "q"})


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    obeyed = "a\x1b[2J\x9b1m\x00\r\u202eb\u2028\ud800"
    assert shown(says(obeyed)) == "a\\x1b[2J\\x9b1m\\x00\\r\\u202eb\\u2028\\ud800"
    for text in ("naïve\tü\n你好", "👩\u200d🔬", "می\u200cخواهم", "[red]not markup[/red]", "à\xa0la"):
        assert shown(says(text)) == text
    assert shown(says("a\r\nb \n")) == "a\nb"
    assert shown([*USER, *says("Po")]) == "[user]\nName a river.\n\n[assistant]\nPo"


def test_the_order_is_the_seeds_and_each_comes_equally_often() -> None:
    items = [item("abc", id=str(i)) for i in range(3000)]
    orders = [tuple(shown_order(1, each)) for each in items]
    assert orders == [tuple(shown_order(1, each)) for each in items]
    assert orders != [tuple(shown_order(2, each)) for each in items]
    assert len(set(orders)) == 6
    assert all(abs(orders.count(order) - 500) < 100 for order in set(orders))
