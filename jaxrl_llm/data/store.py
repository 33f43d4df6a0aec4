"""The token store: a directory of tokenised documents with random access, the one form in which text is trained on.

    meta.json            what it holds, of which tokenizer; written last, so its presence means finished
    documents.npy        int64 [n_documents + 1]: where each document starts in the stream of all tokens, and its end
    shard-00000.array_record ...   the stream, in records of BLOCK tokens; the last record of a shard may be shorter

A shard holds whole documents.  Records are not compressed: a cold read costs half as much (10 against 20 microseconds).
"""

import functools
import itertools
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jaxrl_llm.data.cache import read_meta
from jaxrl_llm.errors import UserError

VERSION = 1
BLOCK = 8192  # tokens of a record: 16 KiB of uint16, one read of a disk
META = "meta.json"


class Shard(NamedTuple):
    """A finished shard, as meta.json describes it."""

    file: str
    n_tokens: int
    n_documents: int
    n_bytes: int  # UTF-8 bytes of its documents' text
    file_size: int  # bytes on disk


class TokenStore:
    """A finished store, read by document; safe to share between threads.

    Raises:
        UserError: the directory is no finished store, or a file of it is missing, damaged or of another size.
    """

    path: Path
    fingerprint: str
    n_documents: int
    n_tokens: int
    n_bytes: int
    tokenizer: dict[str, Any]  # kind, fingerprint, vocab_size
    document_starts: np.ndarray  # int64 [n_documents + 1], memory-mapped

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta = read_meta(self.path / META, "token store", VERSION, self._mend())
        self.fingerprint, self.tokenizer = meta["fingerprint"], meta["tokenizer"]
        self.n_documents, self.n_tokens, self.n_bytes = meta["n_documents"], meta["n_tokens"], meta["n_bytes"]
        self._dtype = np.dtype(meta["dtype"])
        self._shards = [Shard(**shard) for shard in meta["shards"]]
        self._shard_starts = [0, *itertools.accumulate(shard.n_tokens for shard in self._shards)]
        for shard in self._shards:
            self._check_size(shard)
        self.document_starts = self._read_starts()
        # Bounded: a row touches a record many times, but a store may have more shards than file handles.
        self._reader = functools.lru_cache(maxsize=64)(self._open_shard)
        self._block = functools.lru_cache(maxsize=512)(self._read_block)

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Tokens start .. start + length - 1 of a document: int32 [length].

        Raises:
            IndexError: the document does not have them.
            UserError: the shard is damaged.
        """
        begin = int(self.document_starts[document]) + start
        if start < 0 or length < 1 or begin + length > self.document_starts[document + 1]:
            raise IndexError(f"document {document} has no tokens {start} .. {start + length - 1}")
        shard = bisect_right(self._shard_starts, begin) - 1
        first, offset = divmod(begin - self._shard_starts[shard], BLOCK)
        last = first + (offset + length - 1) // BLOCK
        if first == last:
            return self._block(shard, first)[offset : offset + length].astype(np.int32)
        tokens = np.concatenate([self._block(shard, index) for index in range(first, last + 1)])
        return tokens[offset : offset + length].astype(np.int32)

    def _read_starts(self) -> np.ndarray:
        file = self.path / "documents.npy"
        try:
            starts = np.load(file, mmap_mode="r").view(np.ndarray)  # slicing np.memmap itself costs microseconds
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file}: missing or damaged: {error}{self._mend()}") from error
        if len(starts) != self.n_documents + 1 or starts[-1] != self.n_tokens:
            raise UserError(f"{file}: does not belong to {META} beside it{self._mend()}")
        return starts

    def _check_size(self, shard: Shard) -> None:
        file = self.path / shard.file
        size = file.stat().st_size if file.is_file() else None
        if size != shard.file_size:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {shard.file_size:,}"
            raise UserError(f"{file}: {found}{self._mend()}")

    def _open_shard(self, shard: int) -> ArrayRecordReader:
        file = str(self.path / self._shards[shard].file)
        return ArrayRecordReader(file, "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=65536)

    def _read_block(self, shard: int, index: int) -> np.ndarray:
        try:
            [record] = self._reader(shard).read([index])
        except RuntimeError as error:
            raise UserError(f"{self.path / self._shards[shard].file}: damaged: {error}{self._mend()}") from error
        return np.frombuffer(record, self._dtype)

    def _mend(self) -> str:
        return f"\n  mend: rm -r {self.path}\n        and run `jaxrl-llm data build CONFIG`, or the same command again"
