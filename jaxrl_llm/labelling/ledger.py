"""A JSONL file that decisions are appended to, each on the disk before the next one is asked for."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from jaxrl_llm.errors import StorageFailed, UserError

BEGIN = b'{"labeller": '  # of every row of ours: by this a half-written one is known


class Ledger:
    """Rows of one file, which no other process writes at the same time.  Close it, or use it in a `with`.

    A last line that was half-written when a machine stopped is completed or cut away; `mended` says so.  Rows begin
    with the column `labeller`; `is_ours` tells whether a JSON value is a row that may stand in this file.

    Raises:
        UserError: the file holds something else than rows of `label`, is open elsewhere or cannot be written.
    """

    def __init__(self, path: Path, is_ours: Callable[[Any], bool]):
        self.path = path
        self._is_ours = is_ours
        self.mended = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}\n  mend: another file or folder") from error
        try:
            self._lock()
            self._file.seek(0)
            self.rows, self._starts = self._read(self._file.read())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, *rows: dict[str, Any]) -> None:
        """Write rows behind the others; they are on the disk when this returns.

        Raises:
            StorageFailed: they cannot be written; those before them are safe.
        """
        end = os.fstat(self._file.fileno()).st_size
        # Half a surrogate pair has no UTF-8; Python's escape of it is JSON's as well.
        lines = [f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace") for row in rows]
        try:
            self._write(b"".join(lines))
        except OSError as error:
            raise StorageFailed(
                f"{self.path}: cannot be written: {error.strerror}; all but the last decision is safe"
            ) from error
        for row, line in zip(rows, lines, strict=True):
            self.rows.append(row)
            self._starts.append(end)
            end += len(line)

    def drop_last(self) -> dict[str, Any]:
        """Cut away the last row and return it."""
        self._truncate(self._starts.pop())
        return self.rows.pop()

    def close(self) -> None:
        """Give the file free; one without a row is removed."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path}: is being labelled into by another process\n"
                "  mend: a file for each labeller; data.path takes a list or a glob"
            ) from error
        except OSError:
            pass  # a file system without locks

    def _read(self, content: bytes) -> tuple[list[dict[str, Any]], list[int]]:
        """The rows and where each begins; the last line is mended."""
        *lines, last = content.split(b"\n")
        rows, starts, begin = [], [], 0
        for number, line in enumerate(lines, start=1):
            rows.append(self._row(line, number))
            starts.append(begin)
            begin += len(line) + 1
        if not last:
            return rows, starts
        number = len(lines) + 1
        if _cut_short(last):
            self._truncate(begin)
            self.mended = f"{self.path}:{number}: the last line was half-written, and is cut away"
            return rows, starts
        row = self._row(last, number)
        self._write(b"\n")
        self.mended = f"{self.path}:{number}: the end of the last line was missing, and is written now"
        return [*rows, row], [*starts, begin]

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        row = _parsed(line)
        if not self._is_ours(row):
            raise UserError(
                f"{self.path}:{number}: not a row that `label` wrote, so nothing is appended to this file\n"
                "  mend: name a new file, or the one that an earlier `label` wrote"
            )
        return row

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._file.fileno(), size)
        os.fsync(self._file.fileno())


def _cut_short(line: bytes) -> bool:
    """Whether it can only be the beginning of a row of ours."""
    return _parsed(line) is None and (line.startswith(BEGIN) or BEGIN.startswith(line))


def _parsed(line: bytes) -> Any:
    """The JSON value of a line; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
