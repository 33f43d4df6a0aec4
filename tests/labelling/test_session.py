"""The way through the items: on, back, and what it comes to."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.labelling.candidates import Item
from jaxrl_llm.labelling.decisions import Decision, is_label, is_skip
from jaxrl_llm.labelling.ledger import Ledger
from jaxrl_llm.labelling.session import Session
from tests.labelling.made import item


class Files:
    """Both files of a labeller, opened anew for each session."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, items: list[Item], labeller: str, do: Callable[[Session], object]) -> object:
        paths = self.folder / "out.jsonl", self.folder / "out.jsonl.skipped"
        with Ledger(paths[0], is_label) as labelled, Ledger(paths[1], is_skip) as skipped:
            return do(Session(items, labelled, skipped, labeller))


def ids(session: Session) -> list[str]:
    return [each.id for each in session.todo]


ABCD = [item(id=id) for id in "ABCD"]
FIRST = Decision((0, 1), 3)


def test_what_is_done_is_not_asked_again(tmp_path: Path) -> None:
    files = Files(tmp_path)

    def some(session: Session) -> None:
        session.keep(session.todo[0], [0, 1], FIRST, 1)
        session.skip(session.todo[0])

    files.run(ABCD, "ann", some)
    assert files.run(ABCD, "ann", ids) == ["C", "D"]
    assert files.run(ABCD, "bob", ids) == ["A", "B", "C", "D"]
    (tmp_path / "out.jsonl.skipped").unlink()
    assert files.run(ABCD, "ann", ids) == ["B", "C", "D"]


def test_back_undoes_labels_and_skips_also_of_the_last_session(tmp_path: Path) -> None:
    files = Files(tmp_path)

    def first(session: Session) -> None:
        for _ in range(2):
            session.keep(session.todo[0], [0, 1], FIRST, 1)
        session.skip(session.todo[0])
        assert session.back()
        assert ids(session) == ["C", "D"]
        assert session.summary().skipped == 0
        session.skip(session.todo[0])

    def second(session: Session) -> None:
        session.keep(session.todo[0], [0, 1], FIRST, 1)
        assert [session.back(), session.back()] == [True, True]
        assert ids(session) == ["B", "D"]
        assert session.back()
        assert not session.back()
        assert ids(session) == ["A", "B", "D"]
        assert session.decided == -2

    files.run(ABCD, "ann", first)
    files.run(ABCD, "ann", second)
    assert not (tmp_path / "out.jsonl").exists()


def test_nobody_undoes_what_another_labelled(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.run(ABCD, "ann", lambda session: session.keep(session.todo[0], [0, 1], FIRST, 1))
    assert not files.run(ABCD, "bob", Session.back)
    assert not files.run(ABCD[1:], "ann", Session.back)  # an item that is not there any more cannot be shown
    assert files.run(ABCD, "ann", Session.back)


def test_items_without_a_choice_are_skipped_by_name(tmp_path: Path) -> None:
    items = [item(id="A"), item("a", id="B"), item(id="C")]

    def look(session: Session) -> tuple[list[str], int]:
        return ids(session), session.alike

    files = Files(tmp_path)
    files.run(items, "ann", lambda session: session.keep(session.todo[0], [0, 1], FIRST, 1))
    assert files.run(items, "ann", look) == (["C"], 0)
    [row] = [json.loads(line) for line in (tmp_path / "out.jsonl.skipped").read_text().splitlines()]
    assert row == {"labeller": "ann", "id": "B", "skipped": "no two answers differ", "origin": "f:1"}


def test_summary(tmp_path: Path) -> None:
    def run(session: Session) -> None:
        assert session.summary() == (0, 0, 0, None, None, None)
        assert session.seconds_left(None) is None
        session.keep(session.todo[0], [1, 0], Decision((0, 1), 3), 10)
        session.keep(session.todo[0], [0, 1], Decision((1, 0), 3), 20)
        session.keep(session.todo[0], [0, 1], Decision((0, 0)), 40)
        session.keep(session.todo[0], [0, 1, 2, 3], Decision((0, 1, 1, 2)), 20)
        session.keep(session.todo[0], [0, 1, 2, 3], Decision((0, 0, 1, 2)), 20)
        session.skip(session.todo[0])
        summary = session.summary()
        assert summary[:3] == (5, 1, 1)
        assert summary.first_chosen == pytest.approx(2 / 3)
        assert summary.first_by_chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
        assert summary.seconds == 20
        assert session.seconds_left(None) == 40
        assert session.seconds_left(7) == 20

    items = [*ABCD[:3], item("abcd", id="D"), item("abcd", id="E"), *(item(id=id) for id in "FGH")]
    Files(tmp_path).run(items, "ann", run)


def test_an_id_that_was_another_prompts_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.run(ABCD, "ann", lambda session: session.keep(session.todo[0], [0, 1], FIRST, 1))
    other = dataclasses.replace(ABCD[0], prompt=({"role": "user", "content": "Something else?"},))
    with pytest.raises(UserError, match="id 'A' is in the labels already, for another prompt"):
        files.run([other], "ann", ids)
