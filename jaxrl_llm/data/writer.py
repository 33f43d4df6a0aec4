"""Writes token stores, a shard at a time, so that an interrupted build continues after its last finished shard."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxrl_llm.data.store import BLOCK, META, VERSION, Shard
from jaxrl_llm.errors import StorageFailed

SHARD_TOKENS = 2**26  # a shard ends with the first document that reaches this


class Encoded(NamedTuple):
    """Some tokenised documents, one after another."""

    tokens: np.ndarray  # uint16 or uint32 [sum of lengths]
    lengths: np.ndarray  # int64 [documents]: tokens of each
    sizes: np.ndarray  # int64 [documents]: UTF-8 bytes of each one's text


class StoreWriter:
    """Writes a store shard by shard.  What an earlier writer finished in the directory is kept and continued.

    A shard counts as finished once its sidecar (its entry in meta.json, as JSON) stands beside it.

    Raises:
        StorageFailed: a file cannot be written.
    """

    def __init__(self, path: Path, dtype: np.dtype, shard_tokens: int = SHARD_TOKENS) -> None:
        self.path, self.dtype, self.shard_tokens = path, dtype, shard_tokens
        self.shards: list[Shard] = []
        while (sidecar := self._sidecar(len(self.shards))).exists():
            self.shards.append(Shard(**json.loads(sidecar.read_text())))
        self._writer: ArrayRecordWriter | None = None
        self._start_shard()

    @property
    def n_documents(self) -> int:
        """Documents in finished shards."""
        return sum(shard.n_documents for shard in self.shards)

    def add(self, documents: Encoded) -> None:
        """Append documents, finishing each shard with the first document that reaches `shard_tokens`."""
        ends = np.cumsum(documents.lengths)
        document = token = 0
        while document < len(ends):
            room = self.shard_tokens - self._n_tokens
            stop = min(int(np.searchsorted(ends, token + room)) + 1, len(ends))
            end = int(ends[stop - 1])
            self._append(documents.tokens[token:end])
            self._lengths.append(documents.lengths[document:stop])
            self._n_bytes += int(documents.sizes[document:stop].sum())
            document, token = stop, end
            if self._n_tokens >= self.shard_tokens:
                self._finish_shard()

    def finish(self, fingerprint: str, tokenizer: dict[str, Any]) -> None:
        """Write documents.npy and then meta.json; `tokenizer` is what `TokenStore.tokenizer` shall say."""
        if self._n_tokens:
            self._finish_shard()
        numbers = range(len(self.shards))
        starts = np.cumsum(np.concatenate([[0], *(np.load(self._lengths_file(n)) for n in numbers)]), dtype=np.int64)
        self._save_array(self.path / "documents.npy", starts)
        meta = {
            "version": VERSION,
            "fingerprint": fingerprint,
            "tokenizer": tokenizer,
            "dtype": self.dtype.name,
            "block_size": BLOCK,
            "n_documents": self.n_documents,
            "n_tokens": int(starts[-1]),
            "n_bytes": sum(shard.n_bytes for shard in self.shards),
            "shards": [shard._asdict() for shard in self.shards],
        }
        self._save_json(self.path / META, meta)
        for number in numbers:
            self._sidecar(number).unlink()
            self._lengths_file(number).unlink()

    def _start_shard(self) -> None:
        self._n_tokens, self._n_bytes = 0, 0
        self._lengths: list[np.ndarray] = []
        self._rest = np.zeros(0, self.dtype)  # of the last block, not yet full

    def _append(self, tokens: np.ndarray) -> None:
        self._n_tokens += len(tokens)
        stream = np.concatenate([self._rest, tokens])
        full = len(stream) // BLOCK * BLOCK
        for begin in range(0, full, BLOCK):
            self._write(stream[begin : begin + BLOCK])
        self._rest = stream[full:].copy()

    def _write(self, block: np.ndarray) -> None:
        try:
            if self._writer is None:
                self._writer = ArrayRecordWriter(str(self._draft), "group_size:1,uncompressed")
            self._writer.write(block.astype(self.dtype, copy=False).tobytes())
        except RuntimeError as error:
            raise StorageFailed(f"{self._draft}: cannot be written: {error}") from error

    def _finish_shard(self) -> None:
        if len(self._rest):
            self._write(self._rest)
        number = len(self.shards)
        file = self.path / f"shard-{number:05d}.array_record"
        try:
            assert self._writer is not None  # a shard has tokens
            self._writer.close()
            self._draft.replace(file)
        except (RuntimeError, OSError) as error:
            raise StorageFailed(f"{self._draft}: cannot be written: {error}") from error
        self._writer = None
        lengths = np.concatenate(self._lengths)
        self._save_array(self._lengths_file(number), lengths)
        shard = Shard(file.name, self._n_tokens, len(lengths), self._n_bytes, file.stat().st_size)
        self._save_json(self._sidecar(number), shard._asdict())
        self.shards.append(shard)
        self._start_shard()

    @property
    def _draft(self) -> Path:
        return self.path / "unfinished.array_record"

    def _sidecar(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.json"

    def _lengths_file(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.lengths.npy"

    def _save_array(self, file: Path, array: np.ndarray) -> None:
        with _replacing(file) as draft, draft.open("wb") as stream:
            np.save(stream, array)

    def _save_json(self, file: Path, value: dict[str, Any]) -> None:
        with _replacing(file) as draft:
            draft.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A path to write to, renamed to `file` once written: `file` is whole or absent."""
    draft = file.with_name(f"{file.name}.draft")
    try:
        yield draft
        draft.replace(file)
    except OSError as error:
        raise StorageFailed(f"{file}: cannot be written: {error.strerror}") from error
