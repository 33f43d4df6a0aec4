"""The documents of one input: a text file, or the rows of any other, a column of which is the text."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.inputs import Input, OnRead
from jaxrl_llm.data.records import check_column, decode, open_file, parse_row, read_records
from jaxrl_llm.errors import UserError

READ_BYTES = 1 << 24


class Document(NamedTuple):
    """A text, and where it is from: "file", "file:line", or "file#index" where there are no lines."""

    text: str
    origin: str


def documents_of(item: Input, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    """A document a row, from its field; those of a text file; or ArrayRecords if the first is no JSON object.

    Raises:
        UserError: it is damaged, undecodable, or has no such field or no text in it.
    """
    if item.form == "text":
        yield from _text_documents(item.source, config.separator, on_read)
        return
    texts: bool | None = None  # whether records are texts themselves
    for record in read_records(item, on_read, config.field):
        if texts is None:
            texts = item.form == "array_record" and not _is_object(record.value)
        if texts:
            yield Document(decode(record.value, record.origin), record.origin)
        else:
            row = parse_row(record)
            check_column(list(row), config.field, record.origin)
            yield Document(_check_text(row[config.field], config.field, record.origin), record.origin)


def _text_documents(file: Path, separator: str | None, on_read: OnRead) -> Iterator[Document]:
    """The whole file, or what lies between separators, without the line breaks around it."""
    offset, line = 0, 1
    between = separator.encode() if separator else None
    with open_file(file, on_read) as stream:
        for raw in _split(stream, between):
            skipped = 0
            if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                skipped = len(codecs.BOM_UTF8)
            if between:
                skipped = len(raw) - len(raw[skipped:].lstrip(b"\r\n"))
            body = raw[skipped:].rstrip(b"\r\n") if between else raw[skipped:]
            start = line + raw[:skipped].count(b"\n")
            yield Document(decode(body, file, offset + skipped), f"{file}:{start}" if between else str(file))
            line += raw.count(b"\n") + (between or b"").count(b"\n")
            offset += len(raw) + len(between or b"")


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


def _is_object(record: bytes) -> bool:
    try:
        return isinstance(json.loads(record), dict)
    except (ValueError, RecursionError):
        return False


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
