"""Labelling without a terminal: candidates, replies, the file, the way through the items."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from jaxrl_llm.data.examples import Message
from jaxrl_llm.errors import UserError
from jaxrl_llm.labelling.candidates import Candidates, Item, read_candidates, shown, shown_order
from jaxrl_llm.labelling.decisions import Decision, decide, is_label, is_skip, make_row
from jaxrl_llm.labelling.ledger import Ledger
from jaxrl_llm.labelling.session import Session

USER = [{"role": "user", "content": "Name a river."}]


def says(text: str, role: str = "assistant") -> tuple[Message, ...]:
    return ({"role": role, "content": text},)


def item(answers: Iterable[str] = ("a", "b"), id: str = "i", models: tuple[str, ...] | None = None) -> Item:
    said = tuple(says(answer) for answer in answers)
    return Item(id, says("p", "user"), said, tuple(range(len(said))), models, {}, "f:1")


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(tmp_path: Path, *rows: object) -> Candidates:
    return read_candidates(write(tmp_path / "c.jsonl", *rows))


def replies(*lines: str) -> Callable[[str, str], str]:
    """An `Ask` that gives these lines one after the other."""
    waiting = iter(lines)
    return lambda question, wrong: next(waiting)


# Candidates


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


# Replies


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


# The file


def label(id: str, labeller: str = "ann", **more: object) -> dict:
    return {"labeller": labeller, "id": id, "chosen": "a", "rejected": "b", "shown": [1, 2], "seconds": 2.0, **more}


def test_rows_are_there_after_a_kill(tmp_path: Path) -> None:
    """Read by another process, while the first one still has the file open."""
    path = tmp_path / "new" / "out.jsonl"
    with Ledger(path, is_label) as ledger:
        ledger.append(label("x"), label("\ud800"))
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["x", "\ud800"]
        assert ledger.drop_last()["id"] == "\ud800"
        ledger.append(label("z"))
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["x", "z"]
    with Ledger(path, is_label) as ledger:
        assert [row["id"] for row in ledger.rows] == ["x", "z"]
        assert ledger.mended == ""
        ledger.drop_last()
        ledger.drop_last()
    assert not path.exists()


def test_every_change_is_synced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "out.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with Ledger(path, is_label) as ledger:
        for id in "xy":
            ledger.append(label(id))
            assert synced[-1] == path.stat().st_size
        ledger.drop_last()
        assert synced[-1] == path.stat().st_size == synced[0]


def test_a_half_written_last_line_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = [json.dumps(label(id, prompt="你")).encode() for id in "xy"]
    for cut in range(len(whole[1])):
        path.write_bytes(whole[0] + b"\n" + whole[1][:cut])
        with Ledger(path, is_label) as ledger:
            assert [row["id"] for row in ledger.rows] == ["x"]
            assert ("half-written" in ledger.mended) == bool(cut)
        assert path.read_bytes() == whole[0] + b"\n"
    path.write_bytes(b"\n".join(whole))
    with Ledger(path, is_label) as ledger:
        assert [row["id"] for row in ledger.rows] == ["x", "y"]
        assert f"{path}:2: the end of the last line was missing" in ledger.mended
        ledger.append(label("z"))
        ledger.drop_last()
    assert path.read_bytes() == b"\n".join(whole) + b"\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"hello", 1),
        (b"hello\n", 1),
        (b'{"labeller": "ann", "id": "x"}', 1),
        (b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n', 1),
        (json.dumps(label("x")).encode() + b"\n\n", 2),
        (json.dumps(label("x")).encode() + b"\nsome text", 2),
        (json.dumps(label("x")).encode() + b'\n{"labeller": "a\n' + json.dumps(label("y")).encode() + b"\n", 2),
        (b"\xff\xfe\x00", 1),
        (b"\x1f\x8b\x08" + bytes(20), 1),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"out.jsonl:{line}: not a row that `label` wrote"):
        Ledger(path, is_label)
    assert path.read_bytes() == content


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Ledger(path, is_label) as ledger:
        with pytest.raises(UserError, match="by another process"):
            Ledger(path, is_label)
        ledger.append(label("x"))
    Ledger(path, is_label).close()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "out.jsonl"):
        with pytest.raises(UserError, match="cannot be written"):
            Ledger(path, is_label)


# The way through


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
