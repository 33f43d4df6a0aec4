"""The file of labels, whatever happens to the process that writes it."""

import json
import os
from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.labelling.decisions import is_label
from jaxrl_llm.labelling.ledger import Ledger


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
