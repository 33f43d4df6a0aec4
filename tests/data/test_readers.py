"""Documents from every format, what is held out of them, and the refusal of bad files by name and line."""

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

from jaxrl_llm.data import formats, records
from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.inputs import expand
from jaxrl_llm.data.readers import inputs, read_documents
from jaxrl_llm.errors import UserError

TEXTS = ["Erste Größe\n", "二", "third\n\nparagraph", "4"]


def texts(path: Path | str, part: str = "train", **config: Any) -> list[str]:
    return [document.text for document in read_documents(CorpusConfig(path=str(path), **config), part)]  # type: ignore[arg-type]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, **columns: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_records(path: Path, records: list[bytes]) -> Path:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return [{"id": i, "text": text} for i, text in enumerate(texts)]


# ---- formats


def test_a_text_file_is_one_document_with_every_byte_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\n  ä\r\n\n".encode())
    assert list(read_documents(CorpusConfig(path=str(path)))) == [("\n  ä\r\n\n", str(path))]
    path.write_bytes(codecs.BOM_UTF8 + b"x")
    assert texts(path) == ["x"]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_a_separator_cuts_a_text_file(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "READ_BYTES", chunk)
    path = tmp_path / "a.txt"
    path.write_text("one\nmore\n<|end|>\nzwei ä\n<|end|>\n\n<|end|>three\n", encoding="utf-8-sig")
    found = list(read_documents(CorpusConfig(path=str(path), separator="<|end|>")))
    assert found == [("one\nmore", f"{path}:1"), ("zwei ä", f"{path}:4"), ("three", f"{path}:7")]


@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl(tmp_path: Path, zipped: bool) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(TEXTS))
    path.write_text(path.read_text().replace("\n", "\n\n", 1))  # a blank line is no row
    if zipped:
        packed = tmp_path / "a.jsonl.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    found = list(read_documents(CorpusConfig(path=str(path))))
    assert [document.text for document in found] == TEXTS
    assert [document.origin for document in found] == [f"{path}:{line}" for line in (1, 3, 4, 5)]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORDS", 3)
    path = write_parquet(tmp_path / "a.parquet", id=[1, 2, 3, 4], body=TEXTS)
    found = list(read_documents(CorpusConfig(path=str(path), field="body")))
    assert [document.text for document in found] == TEXTS
    assert found[3].origin == f"{path}#3"


@pytest.mark.parametrize("as_json", [False, True])
def test_array_record(tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORDS", 3)
    stored = [json.dumps(row).encode() for row in rows(TEXTS)] if as_json else [text.encode() for text in TEXTS]
    assert texts(write_records(tmp_path / "a.array_record", stored)) == TEXTS


def test_what_is_read_is_told(tmp_path: Path) -> None:
    files = [
        write_jsonl(tmp_path / "a.jsonl", rows(TEXTS * 500)),
        write_parquet(tmp_path / "b.parquet", text=[f"{i} {TEXTS[0]}" for i in range(5000)]),
        write_records(tmp_path / "c.array_record", [text.encode() * 999 for text in TEXTS * 50]),
    ]
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress(files[0].read_bytes()))
    for file in [*files, packed]:
        told: list[int] = []
        for _ in read_documents(CorpusConfig(path=str(file)), "train", told.append):
            pass
        size = file.stat().st_size
        assert 0.8 * size <= sum(told) <= 1.2 * size + (1 << 16)  # parquet reads its last 64 KiB first


def test_documents_of_white_space_are_dropped(tmp_path: Path) -> None:
    assert texts(write_jsonl(tmp_path / "a.jsonl", rows(["", "a", " \n", "b"]))) == ["a", "b"]


# ---- bad files


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


ROW = b'{"text": "a"}\n'
BAD = {
    "not utf-8": (raw("a.txt", b"abc\xe6d"), r"a\.txt: byte 3 \(0xe6\) is not UTF-8"),
    "not utf-8 after BOM": (raw("a.txt", codecs.BOM_UTF8 + b"ab\xff"), r"a\.txt: byte 5 "),
    "empty": (raw("a.txt", b""), r"a\.txt: an empty file"),
    "unknown ending": (raw("a.csv", b"x"), r"a\.csv: the name does not tell its format"),
    "no JSON": (raw("a.jsonl", ROW + b"{oops\n"), r"a\.jsonl:2: not a JSON row"),
    "deep JSON": (raw("a.jsonl", ROW + b"[" * 100_000), r"a\.jsonl:2: not a JSON row"),
    "JSON not utf-8": (raw("a.jsonl", ROW + ROW + b'{"text": "\xff"}'), r"a\.jsonl:3: not a JSON row"),
    "no object": (raw("a.jsonl", b'["text"]'), r"a\.jsonl:1: a row is a JSON object, and this one is a list"),
    "no field": (raw("a.jsonl", ROW + b'{"id": 1, "body": "a"}'), r"a\.jsonl:2: no field 'text'; there is: id, body"),
    "number": (raw("a.jsonl", b'{"text": 3}'), r"a\.jsonl:1: the field 'text' is no string but int"),
    "null": (raw("a.jsonl", b'{"text": null}'), r"a\.jsonl:1: the field 'text' is no string but null"),
    "surrogate": (raw("a.jsonl", b'{"text": "a\\ud800"}'), r"a\.jsonl:1: .*surrogate"),
    "no gzip": (raw("a.jsonl.gz", ROW), r"a\.jsonl\.gz: not a whole gzip file"),
    "cut gzip": (raw("a.jsonl.gz", gzip.compress(ROW * 9)[:-9]), r"a\.jsonl\.gz: not a whole gzip file"),
    "no parquet": (raw("a.parquet", b"hello" * 99), r"a\.parquet: cannot be read as parquet"),
    "no column": (lambda d: write_parquet(d / "a.parquet", id=[1]), r"a\.parquet: no field 'text'; there is: id\n"),
    "parquet null": (lambda d: write_parquet(d / "a.parquet", text=["a", None]), r"a\.parquet#1: .*no string but null"),
    "no ArrayRecord": (raw("a.array_record", b"hello" * 99), r"a\.array_record: no ArrayRecord file"),
    "bytes": (lambda d: write_records(d / "a.array_record", [b"ok", b"\xff"]), r"a\.array_record#1: byte 0 "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_its_place(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    path = write(tmp_path)
    with pytest.raises(UserError, match=message):
        texts(path)


def test_the_place_of_a_bad_byte_is_in_the_file_not_in_its_document(tmp_path: Path) -> None:
    path = raw("a.txt", b"ab--\ncd--\n\nef\xff")(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt: byte 13 "):
        texts(path, separator="--")


def test_a_real_file_that_is_not_utf_8_is_named(shared_data: Path) -> None:
    with pytest.raises(UserError, match=r"shakespeare-caesar\.txt: byte 3,843 \(0xe6\)"):
        texts(shared_data / "text" / "gutenberg")


# ---- paths


def test_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden.txt", ".git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.txt", "b.txt", "sub/c.txt"]
    assert texts(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert texts(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    both = CorpusConfig(path=(str(tmp_path / "b.txt"), str(tmp_path / "[a]*.txt")))
    assert [document.text for document in read_documents(both)] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("name", "message"), [("no.txt", "no such file"), ("*.nope", "no file matches"), ("", "an empty directory")]
)
def test_no_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand(str(tmp_path / name))


# ---- holdout


def test_holdout_of_documents_and_of_characters(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows([f"a{i}" for i in range(10)] + [" "]))
    write_jsonl(tmp_path / "b.jsonl", rows([f"b{i}" for i in range(5)]))
    write_jsonl(tmp_path / "c.jsonl", rows(["0123456789"]))
    assert texts(tmp_path, "holdout", holdout=0.2) == ["a8", "a9", "b4", "89"]
    assert texts(tmp_path, "train", holdout=0.2) == [*(f"a{i}" for i in range(8)), "b0", "b1", "b2", "b3", "01234567"]


def test_holdout_of_tinyshakespeare_is_nanogpts(shared_data: Path) -> None:
    path = shared_data / "text" / "tinyshakespeare.txt"
    text = path.read_text()
    assert texts(path, "train", holdout=0.1) == [text[: int(len(text) * 0.9)]]
    assert texts(path, "holdout", holdout=0.1) == [text[int(len(text) * 0.9) :]]


@pytest.mark.parametrize(("n", "holdout"), [(1, 0.99), (2, 0.6), (0, 0.5), (3, 0.0)])
def test_an_empty_side_is_refused(tmp_path: Path, n: int, holdout: float) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(["abc"] * n) or [{"text": " "}])
    with pytest.raises(UserError, match="leaves no (document|character) on one side"):
        texts(path, "holdout", holdout=holdout)


# ---- TFDS


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS data set of TEXTS, prepared as array_record: DATA_DIR/my_text/1.0.0."""
    import tensorflow_datasets as tfds

    class MyText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"text": tfds.features.Text(), "id": tfds.features.Scalar(dtype=np.int64)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self) -> Any:
            yield from ((row["id"], row) for row in rows(TEXTS))

    tfds.disable_progress_bar()
    builder = MyText(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_tfds_is_read_without_tensorflow(tfds_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # TFDS looks for its folder when it is imported, so the name is found through a patch, not through $TFDS_DATA_DIR.
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tfds_directory.parent.parent))
    for path in (f"tfds:{tfds_directory}", "tfds:my_text", "tfds:my_text:1.0.0"):
        found = list(read_documents(CorpusConfig(path=path)))
        assert sorted(document.text for document in found) == sorted(TEXTS)  # TFDS shuffles
        assert found[1].origin == "my_text/1.0.0/train#1"
    order = [document.text for document in found]
    assert texts(f"tfds:{tfds_directory}", "holdout", holdout=0.5) == order[2:]
    assert texts(f"tfds:{tfds_directory}", split="train[1:3]") == order[1:3]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("tfds:no_such_set", {}, "tfds:no_such_set is not prepared here.*\n.*--file_format=array_record"),
        ("tfds:{}/..", {}, "is not prepared here"),
        ("tfds:{}", {"split": "nope"}, "no split 'nope'; there is: test, train"),
        ("tfds:{}", {"field": "body"}, "no field 'body'; there is: id, text"),
        ("tfds:{}", {"field": "id"}, "the field 'id' is no string but int"),
    ],
)
def test_bad_tfds_names_are_refused(tfds_directory: Path, path: str, config: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        texts(path.format(tfds_directory), **config)


def test_tfds_stored_for_tensorflow_is_refused_by_name(tfds_directory: Path, tmp_path: Path) -> None:
    for file in tfds_directory.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        UserError, match=r"my_text/1.0.0 .*is stored as tfrecord, which takes TensorFlow to read\n  mend: "
    ):
        texts(f"tfds:{tmp_path}")


def test_tfds_with_damaged_files_is_refused(tfds_directory: Path, tmp_path: Path) -> None:
    for file in tfds_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"my_text/1.0.0 in .*: damaged"):
        texts(f"tfds:{tmp_path}")
    next(tmp_path.glob("*train*")).unlink()
    with pytest.raises(UserError, match="no such file, though my_text/1.0.0 names it"):
        texts(f"tfds:{tmp_path}")


def test_the_identity_of_an_input_is_its_content(tmp_path: Path, tfds_directory: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "c.txt").write_text("y")
    a, b, c = (item.identity() for item in inputs(CorpusConfig(path=str(tmp_path))))
    assert a == b != c
    [train] = inputs(CorpusConfig(path=f"tfds:{tfds_directory}"))
    [test] = inputs(CorpusConfig(path=f"tfds:{tfds_directory}", split="test"))
    assert train.identity() != test.identity()
    assert train.size == sum(file.stat().st_size for file in tfds_directory.glob("*train*"))
