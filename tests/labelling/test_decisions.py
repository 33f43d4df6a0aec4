"""From what is typed to a decision, and from that to a row."""

import dataclasses

import pytest

from jaxrl_llm.labelling.decisions import Decision, decide, is_label, make_row
from tests.labelling.made import item, replies


@pytest.mark.parametrize(
    ("lines", "decision"),
    [
        (["1", "3"], Decision((0, 1), 3)),
        (["2", "0"], Decision((1, 0), 0)),
        (["22"], Decision((1, 0), 2)),
        ([" 1 1 "], Decision((0, 1), 1)),
        (["T"], Decision((0, 0))),
        (["3", "14", "", "1 2 3", "x", "1", "4", "t", "1"], Decision((0, 1), 1)),  # the first six mean nothing
        (["1", "b", "2", "?", "3"], Decision((1, 0), 3)),
        (["1", "s"], "s"),
        (["b"], "b"),
        (["1", "b", "b"], "b"),
        (["q"], "q"),
    ],
)
def test_replies_about_two(lines: list[str], decision: object) -> None:
    assert decide(2, False, replies(*lines)) == decision


@pytest.mark.parametrize(
    ("lines", "decision"),
    [
        (["2 1 3"], Decision((1, 0, 2))),
        (["2 1=3"], Decision((1, 0, 1))),
        (["2, 1 = 3"], Decision((1, 0, 1))),
        (["3 > 1 > 2"], Decision((1, 2, 0))),
        (["1=2 3"], Decision((0, 0, 1))),
        (["t"], Decision((0, 0, 0))),
        (["1=2=3"], Decision((0, 0, 0))),
        (["2", "1 2", "1 1 2 3", "1 2 4", "1 2=", "=", "2 1 3 0", "3 2 1"], Decision((2, 1, 0))),
    ],
)
def test_replies_about_three(lines: list[str], decision: Decision) -> None:
    assert decide(3, False, replies(*lines)) == decision


def test_safety_is_asked_last_and_can_be_gone_back_from() -> None:
    assert decide(2, True, replies("13", "yes", "y", "y n n", "Y n")) == Decision((0, 1), 3, (True, False))
    assert decide(2, True, replies("t", "nn")) == Decision((0, 0), None, (False, False))
    assert decide(2, True, replies("1", "2", "b", "3", "yn")) == Decision((0, 1), 3, (True, False))
    assert decide(3, True, replies("1 2 3", "y,n,y")) == Decision((0, 1, 2), None, (True, False, True))


def test_a_reply_that_means_nothing_is_explained() -> None:
    heard = []

    def ask(question: str, wrong: str) -> str:
        heard.append(wrong)
        return ["2 2 1", "1 2", "?", "q"][len(heard) - 1]

    assert decide(3, True, ask) == "q"
    assert heard[:3] == ["", "2 is there twice; ? for help", "3 is missing; ? for help"]
    assert all(key in heard[3] for key in ("2 1=3", "y n", "skip", "back", "quit"))


# Rows


def test_a_pair() -> None:
    asked = dataclasses.replace(item(models=("m", "n")), sources=(1, 3))  # the row had others that look alike
    row = make_row(asked, [1, 0], Decision((0, 1), 2, (False, True)), "ann", 3.14159)
    assert row == {
        "labeller": "ann",
        "id": "i",
        "prompt": "p",
        "chosen": "b",
        "rejected": "a",
        "rating": 2,
        "safe": [False, True],
        "models": ["n", "m"],
        "shown": [1, 2],
        "source": [3, 1],
        "seconds": 3.1,
    }
    assert is_label(row)


def test_a_ranking_goes_best_first() -> None:
    row = make_row(item("abcd"), [2, 0, 3, 1], Decision((2, 0, 1, 1), None, (True, False, False, True)), "ann", 1)
    assert (row["answers"], row["ranks"]) == (["a", "d", "b", "c"], [0, 1, 1, 2])
    assert (row["shown"], row["source"]) == ([2, 3, 4, 1], [0, 3, 1, 2])
    assert row["safe"] == [False, False, True, True]
    assert "chosen" not in row
