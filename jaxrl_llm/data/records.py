"""The rows of an input as they are stored: JSON lines, a JSON array, parquet, ArrayRecord, TFDS without TensorFlow."""

import codecs
import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jaxrl_llm.data.inputs import Input, OnRead, TfdsSplit, ignore
from jaxrl_llm.errors import UserError

RECORDS = 256  # records and parquet rows that are read at once


class Record(NamedTuple):
    """A row, not looked at yet, and where it is from: "file:line", or "file#index" where there are no lines."""

    value: Any  # bytes where it is stored as JSON, otherwise the row itself
    origin: str


def read_records(item: Input, on_read: OnRead = ignore, column: str | None = None) -> Iterator[Record]:
    """The rows of an input in order, one after another; only a .json file with an array is read at once.

    Args:
        item: the input.
        on_read: is told of each piece that was read.
        column: the only one that is wanted; where columns are stored apart, the others are not read.

    Raises:
        UserError: the input is damaged, or not of its form, so that one cannot read on; or has no such column.
    """
    return _READERS[item.form](item.source, on_read, column)


def parse_row(record: Record) -> dict[str, Any]:
    """The columns of a row by name.

    Raises:
        UserError: it is no JSON, or no object.
    """
    row = record.value
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{record.origin}: not a JSON row: {error}\n  mend: each line is one JSON object"
            ) from error
    if not isinstance(row, dict):
        raise UserError(f"{record.origin}: a row is a JSON object, and this one is a {type(row).__name__}")
    return row


def check_column(names: list[str], column: str, origin: str) -> None:
    """Raises UserError unless the column is there."""
    if column not in names:
        there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(
            f"{origin}: no field {column!r}; there is: {there or 'none'}\n  mend: set `field` to one of these"
        )


def open_file(file: Path, on_read: OnRead) -> io.BufferedReader:
    """A file that tells how much of it is read."""
    try:
        return io.BufferedReader(_Counted(file, on_read), 1 << 20)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


class _Counted(io.FileIO):
    def __init__(self, file: Path, on_read: OnRead) -> None:
        super().__init__(file)
        self._on_read = on_read

    def readinto(self, buffer: Any, /) -> int | None:
        n = super().readinto(buffer)
        self._on_read(n or 0)
        return n


@contextlib.contextmanager
def _unpacked(file: Path, on_read: OnRead) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    with open_file(file, on_read) as raw:
        try:
            yield gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file}: not a whole gzip file: {error}\n  mend: download or pack it again") from error


def _jsonl(file: Path, on_read: OnRead, column: str | None) -> Iterator[Record]:
    """A row a line; blank lines are no rows."""
    with _unpacked(file, on_read) as stream:
        yield from _lines(stream, file)


def _json(file: Path, on_read: OnRead, column: str | None) -> Iterator[Record]:
    """The elements of an array; or lines all the same, which many a file of that name has."""
    with _unpacked(file, on_read) as stream:
        if not stream.peek(1).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _lines(stream, file)
            return
        try:
            rows = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{file}: no JSON array: {error}\n  mend: [row, row, ...], or a row a line without the brackets"
            ) from error
        yield from (Record(row, f"{file}#{index}") for index, row in enumerate(rows))


def _lines(stream: BinaryIO | gzip.GzipFile, file: Path) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield Record(line, f"{file}:{number}")


def _parquet(file: Path, on_read: OnRead, column: str | None) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    index = 0
    with open_file(file, on_read) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            if column is not None:
                check_column(table.schema_arrow.names, column, str(file))
            for batch in table.iter_batches(batch_size=RECORDS, columns=None if column is None else [column]):
                for row in batch.to_pylist():
                    yield Record(row, f"{file}#{index}")
                    index += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as parquet, near row {index}: {error}") from error


def _array_record(file: Path, on_read: OnRead, column: str | None) -> Iterator[Record]:
    reader = ArrayRecordReader(str(file))
    count = reader.num_records()
    if count == 0:
        raise UserError(f"{file}: no ArrayRecord file, or truncated: there is no record in it")
    for begin in range(0, count, RECORDS):
        try:
            values = reader.read(begin, min(begin + RECORDS, count))
        except RuntimeError as error:
            raise UserError(f"{file}: damaged after record {begin}: {error}") from error
        yield from (Record(value, f"{file}#{index}") for index, value in enumerate(values, begin))
        on_read(file.stat().st_size * len(values) // count)


def _tfds(split: TfdsSplit, on_read: OnRead, column: str | None) -> Iterator[Record]:
    info = split.builder.info
    size = info.splits[split.name]
    try:
        if column is not None:
            check_column(sorted(info.features), column, info.full_name)
        source = split.builder.as_data_source(split.name)
        for index in range(len(source)):
            origin = f"{info.full_name}/{split.name}#{index}"
            row = source[index]
            yield Record({name: _plain(row[name], origin) for name in (row if column is None else [column])}, origin)
            on_read(size.num_bytes // size.num_examples)
    except (RuntimeError, ImportError) as error:
        raise UserError(
            f"{info.full_name} in {split.builder.data_dir}: damaged, or takes TensorFlow to read: {error}"
        ) from error


def _plain(value: Any, origin: str) -> Any:
    """What TFDS gives as what JSON gives; a sequence of objects comes as one object of sequences."""
    if isinstance(value, bytes):
        return decode(value, origin)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
        return _plain(value, origin) if isinstance(value, list | bytes) else value
    if isinstance(value, dict):
        value = {key: _plain(each, origin) for key, each in value.items()}
        columns = [each for each in value.values() if isinstance(each, list)]
        if columns and len(columns) == len(value) and len({len(each) for each in columns}) == 1:
            return [dict(zip(value, each, strict=True)) for each in zip(*columns, strict=True)]
        return value
    return [_plain(each, origin) for each in value] if isinstance(value, list | tuple) else value


def decode(raw: bytes, origin: object, offset: int = 0) -> str:
    """UTF-8, or a UserError that names the byte, counted from `offset`."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{origin}: byte {offset + error.start:,} (0x{raw[error.start]:02x}) is not UTF-8: {error.reason}\n"
            "  mend: if it is in Latin-1, `iconv -f latin1 -t utf-8 FILE > NEW`"
        ) from error


_READERS: Mapping[str, Callable[[Any, OnRead, str | None], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "array_record": _array_record,
    "tfds": _tfds,
}
