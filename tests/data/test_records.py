"""Rows as they are stored: each form gives the same ones, one after another, and a damaged input is named."""

import codecs
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from jaxrl_llm.data import records
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.read_examples import inputs_of
from jaxrl_llm.data.records import parse_row, read_records
from jaxrl_llm.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"Größe {i}"}, {"role": "assistant", "content": "二"}], "n": i}
    for i in range(7)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path | str) -> list[dict[str, Any]]:
    [item] = inputs_of(ExamplesConfig(path=str(path)))
    return [parse_row(record) for record in read_records(item)]


def origins(path: Path) -> list[str]:
    [item] = inputs_of(ExamplesConfig(path=str(path)))
    return [record.origin.removeprefix(str(path)) for record in read_records(item)]


def write_array_record(path: Path, rows: list[bytes]) -> Path:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(row)
    writer.close()
    return path


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def parquet(folder: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
    return folder / "a.parquet"


def array_record(folder: Path) -> Path:
    return write_array_record(folder / "a.array_record", LINES.splitlines())


ARRAY = json.dumps(ROWS, indent=1).encode()
FORMS = {
    "jsonl": (written("a.jsonl", codecs.BOM_UTF8 + LINES.replace(b"\n", b"\n \n", 1)), [":1", ":3"]),
    "jsonl.gz": (written("a.jsonl.gz", gzip.compress(LINES)), [":1", ":2"]),
    "json": (written("a.json", codecs.BOM_UTF8 + b"\n" + ARRAY), ["#0", "#1"]),
    "json.gz": (written("a.json.gz", gzip.compress(ARRAY)), ["#0", "#1"]),
    "json of lines": (written("a.json", LINES), [":1", ":2"]),
    "parquet": (parquet, ["#0", "#1"]),
    "array_record": (array_record, ["#0", "#1"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORDS", 3)
    write, places = FORMS[form]
    path = write(tmp_path)
    assert read(path) == ROWS
    assert origins(path)[:2] == places


def test_rows_are_read_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES * 5000 + b"{oops")
    [item] = inputs_of(ExamplesConfig(path=str(path)))
    told: list[int] = []
    reading = read_records(item, told.append)
    assert parse_row(next(reading)) == ROWS[0]
    assert 0 < sum(told) <= 1 << 20 < item.size
    for record in reading:
        last = record
    assert sum(told) == item.size
    with pytest.raises(UserError, match=r"a\.jsonl:35001: not a JSON row"):  # not before it is looked at
        parse_row(last)


BAD = {
    "cut gzip": (written("a.json.gz", gzip.compress(ARRAY)[:-9]), r"a\.json\.gz: not a whole gzip file"),
    "cut array": (written("a.json", ARRAY[:-9]), r"a\.json: no JSON array: "),
    "array not utf-8": (written("a.json", b'["\xff"]'), r"a\.json: no JSON array: "),
    "one object": (written("a.json", json.dumps(ROWS[0], indent=1).encode()), r"a\.json:1: not a JSON row"),
    "array of strings": (written("a.json", b'["a"]'), r"a\.json#0: a row is a JSON object, and this one is a str"),
    "no parquet": (written("a.parquet", b"hello" * 99), r"a\.parquet: cannot be read as parquet"),
    "text records": (lambda d: write_array_record(d / "a.array_record", [b"Hi"]), r"a\.array_record#0: not a JSON row"),
    "unknown ending": (written("a.csv", b"x"), r"a\.csv: the name does not tell its format .*\n  mend: rename it"),
    "empty": (written("a.jsonl", b""), r"a\.jsonl: an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_is_named_with_its_place(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    path = write(tmp_path)
    with pytest.raises(UserError, match=message):
        read(path)


def test_tfds_gives_what_json_gives(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    class MyChats(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict(
                {
                    "messages": tfds.features.Sequence({"role": text, "content": text}),
                    "chosen": {"role": text, "content": text},
                    "answers": tfds.features.Sequence(text),
                    "scores": tfds.features.Sequence(tfds.features.Scalar(dtype=np.float32)),
                    "label": tfds.features.Scalar(dtype=np.bool_),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": iter([(0, row)])}

        def _generate_examples(self) -> Any:
            raise NotImplementedError

    row = {
        "messages": ROWS[0]["messages"],
        "chosen": {"role": "assistant", "content": "ja"},
        "answers": ["è", "é"],
        "scores": [1.5, 2.0],
        "label": True,
    }
    tfds.disable_progress_bar()
    builder = MyChats(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    [found] = read(f"tfds:{builder.data_dir}")
    assert found == row
    assert type(found["label"]) is bool
    assert type(found["scores"][0]) is float
    assert "tensorflow" not in sys.modules
