"""The documents of one file: text, JSONL, parquet, ArrayRecord; and of one TFDS split, read without TensorFlow."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.errors import UserError

OnRead = Callable[[int], None]  # told how many more bytes of the input were read
READ_BYTES = 1 << 24
RECORDS = 256  # records and parquet rows that are read at once


class Document(NamedTuple):
    """A text, and where it is from: "file", "file:line", or "file#index" where there are no lines."""

    text: str
    origin: str


def read_text(file: Path, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """The whole file, or what lies between separators, without the line breaks around it."""
    offset, line = 0, 1
    separator = config.separator.encode() if config.separator else None
    with _open(file, on_read) as stream:
        for raw in _split(stream, separator):
            skipped = 0
            if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                skipped = len(codecs.BOM_UTF8)
            if separator:
                skipped = len(raw) - len(raw[skipped:].lstrip(b"\r\n"))
            body = raw[skipped:].rstrip(b"\r\n") if separator else raw[skipped:]
            start = line + raw[:skipped].count(b"\n")
            yield Document(_decode(body, file, offset + skipped), f"{file}:{start}" if separator else str(file))
            line += raw.count(b"\n") + (separator or b"").count(b"\n")
            offset += len(raw) + len(separator or b"")


def read_jsonl(file: Path, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """A document a row, from its field; `.gz` is unpacked.  Blank lines are no rows."""
    with _open(file, on_read) as raw:
        lines = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
        try:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.isspace():
                    yield _row_document(line, config.field, f"{file}:{number}")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file}: not a whole gzip file: {error}\n  mend: download or pack it again") from error


def read_parquet(file: Path, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """A document a row, from its column."""
    import pyarrow
    import pyarrow.parquet

    index = 0
    with _open(file, on_read) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            _check_field(table.schema_arrow.names, config.field, str(file))
            for batch in table.iter_batches(batch_size=RECORDS, columns=[config.field]):
                for value in batch.column(0).to_pylist():
                    origin = f"{file}#{index}"
                    yield Document(_check_text(value, config.field, origin), origin)
                    index += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as parquet, near row {index}: {error}") from error


def read_array_record(file: Path, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """A document a record: the field of a JSON object if the first record is one, otherwise the text itself."""
    reader = ArrayRecordReader(str(file))
    count = reader.num_records()
    if count == 0:
        raise UserError(f"{file}: no ArrayRecord file, or truncated: there is no record in it")
    rows = False
    for begin in range(0, count, RECORDS):
        try:
            records = reader.read(begin, min(begin + RECORDS, count))
        except RuntimeError as error:
            raise UserError(f"{file}: damaged after record {begin}: {error}") from error
        rows = rows or (begin == 0 and _is_object(records[0]))
        for index, record in enumerate(records, begin):
            origin = f"{file}#{index}"
            yield _row_document(record, config.field, origin) if rows else Document(_decode(record, origin), origin)
        on_read(file.stat().st_size * len(records) // count)


READERS: Mapping[str, Callable[[Path, CorpusConfig, OnRead], Iterator[Document]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "array_record": read_array_record,
}


def read_tfds(builder: Any, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """A document an example, from its feature.  `builder` is a TFDS builder prepared as array_record."""
    name = builder.info.full_name
    split = builder.info.splits[config.split]
    try:
        _check_field(sorted(builder.info.features), config.field, name)
        source = builder.as_data_source(config.split)
        for index in range(len(source)):
            origin = f"{name}/{config.split}#{index}"
            value = source[index][config.field]
            yield Document(
                _decode(value, origin) if isinstance(value, bytes) else _check_text(value, config.field, origin), origin
            )
            on_read(split.num_bytes // split.num_examples)
    except (RuntimeError, ImportError) as error:
        raise UserError(f"{name} in {builder.data_dir}: damaged, or takes TensorFlow to read: {error}") from error


class _Counted(io.FileIO):
    """A file that tells how much of it is read."""

    def __init__(self, file: Path, on_read: OnRead) -> None:
        super().__init__(file)
        self._on_read = on_read

    def readinto(self, buffer: Any, /) -> int | None:
        n = super().readinto(buffer)
        self._on_read(n or 0)
        return n


def _open(file: Path, on_read: OnRead) -> io.BufferedReader:
    try:
        return io.BufferedReader(_Counted(file, on_read), 1 << 20)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _split(stream: BinaryIO, separator: bytes | None) -> Iterator[bytes]:
    """What lies between separators; everything, if there is none."""
    chunks = iter(lambda: stream.read(READ_BYTES), b"")
    if separator is None:
        yield b"".join(chunks)
        return
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _decode(raw: bytes, origin: object, offset: int = 0) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{origin}: byte {offset + error.start:,} (0x{raw[error.start]:02x}) is not UTF-8: {error.reason}\n"
            "  mend: if it is in Latin-1, `iconv -f latin1 -t utf-8 FILE > NEW`"
        ) from error


def _row_document(raw: bytes, field: str, origin: str) -> Document:
    try:
        row = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not a JSON row: {error}\n  mend: each line is one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{origin}: a row is a JSON object, and this one is a {type(row).__name__}")
    _check_field(list(row), field, origin)
    return Document(_check_text(row[field], field, origin), origin)


def _is_object(record: bytes) -> bool:
    try:
        return isinstance(json.loads(record), dict)
    except (ValueError, RecursionError):
        return False


def _check_field(names: list[str], field: str, origin: str) -> None:
    if field not in names:
        there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(
            f"{origin}: no field {field!r}; there is: {there or 'none'}\n  mend: set `field` to one of these"
        )


def _check_text(value: Any, field: str, origin: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise UserError(
            f"{origin}: the field {field!r} is no string but {kind}\n  mend: set `field` to one that holds text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{origin}: the field {field!r} has half of a surrogate pair at character {error.start}"
        ) from error
    return value
