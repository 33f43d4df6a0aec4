"""Packing is an index: row -> pieces of documents, so that a packed row is random access.

A document of n tokens gives n - 1 (input, target) pairs: pair i reads token i and predicts token i + 1.  A row holds
up to T pairs, as pieces (document, start, length): pairs start .. start + length - 1 of that document.  Every pair of
every document is in exactly one piece.  Shuffle, mixture, resume and the number of hosts act on row numbers alone.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxrl_llm.errors import StorageFailed, UserError


class Packed(NamedTuple):
    """R rows made of P pieces; row r is pieces rows[r] .. rows[r + 1] - 1."""

    rows: np.ndarray  # int64 [R + 1], from 0 to P
    pieces: np.ndarray  # int64 [P, 3]: document, start, length


def concat(pairs: np.ndarray, length: int) -> Packed:
    """The pairs of all documents in order, cut every `length`: all rows are full but the last.

    `pairs`, int64 [documents], is the number of pairs of each document.
    """
    end = np.cumsum(pairs)  # in the stream of all pairs, and so is first
    first = end - pairs
    document, nth = _cut(np.where(pairs > 0, (end - 1) // length - first // length + 1, 0))
    start = np.where(nth == 0, first[document], (first[document] // length + nth) * length)
    size = np.diff(start, append=pairs.sum())
    return Packed(_offsets(start // length), np.stack([document, start - first[document], size], axis=1))


def first_fit(pairs: np.ndarray, length: int) -> Packed:
    """Each document goes whole into the first row with room for it, one longer than `length` after being cut up.

    `pairs`, int64 [documents], is the number of pairs of each document.  O(log R) a piece, by a tree of largest rooms.
    """
    document, nth = _cut(-(-pairs // length))
    start = nth * length
    size = np.minimum(pairs[document] - start, length)
    row = _first_rows(size, length)
    return Packed(_offsets(row), np.stack([document, start, size], axis=1)[np.argsort(row, kind="stable")])


def whole(pairs: np.ndarray, length: int) -> Packed:
    """Each document has rows of its own: one, or several if it is longer than `length`."""
    document, nth = _cut(-(-pairs // length))
    start = nth * length
    size = np.minimum(pairs[document] - start, length)
    return Packed(np.arange(len(document) + 1), np.stack([document, start, size], axis=1))


def _cut(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For `counts[d]` pieces of each document d: the document of every piece, and which of its pieces it is, from 0."""
    document = np.repeat(np.arange(len(counts)), counts)
    return document, np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)


def _offsets(row: np.ndarray) -> np.ndarray:
    """`Packed.rows`, from the row of every piece."""
    return np.append(0, np.cumsum(np.bincount(row)))


def _first_rows(sizes: np.ndarray, length: int) -> np.ndarray:
    """The row of each piece, int64 [P].

    By a binary tree: leaf r is the room left in row r, every other node the larger one of its two children.
    """
    bound = 2 * (int(sizes.sum()) // length + 1)  # all rows but one are more than half full
    leaves = 1 << (bound - 1).bit_length()
    room = [length] * (2 * leaves)  # node i has children 2 i and 2 i + 1; the root is 1, leaf r is leaves + r
    rows = []
    for size in sizes.tolist():
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < size:
                node += 1
        rows.append(node - leaves)
        left = room[node] = room[node] - size
        while node > 1:
            left = max(left, room[node ^ 1])
            node //= 2
            if room[node] == left:
                break
            room[node] = left
    return np.asarray(rows, np.int64)


STRATEGIES: Mapping[str, Callable[[np.ndarray, int], Packed]] = {
    "concat": concat,
    "first_fit": first_fit,
    "none": whole,
}


class Documents(Protocol):
    """What is packed: a store's directory, and where each document starts in the stream of all its tokens."""

    path: Path

    @property
    def document_starts(self) -> np.ndarray:
        """int64 [documents + 1], the last one the end."""


class PackingIndex:
    """The pieces of every row, memory-mapped from a directory that `build_index` wrote.  Safe to read from threads.

    Raises:
        UserError: a file in it is missing or damaged.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        try:  # plain views of the maps, as slicing np.memmap itself costs microseconds
            self._rows = np.load(path / "rows.npy", mmap_mode="r").view(np.ndarray)
            self._pieces = np.load(path / "pieces.npy", mmap_mode="r").view(np.ndarray)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: the packing index is damaged: {error}\n  mend: rm -r {path}, and run the same command again"
            ) from error
        self.n_rows = len(self._rows) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The pieces of a row, int64 [k, 3]: document, start, length."""
        return self._pieces[self._rows[row] : self._rows[row + 1]]

    @property
    def n_pairs(self) -> int:
        """(input, target) pairs in all rows."""
        return int(self._pieces[:, 2].sum())

    @property
    def fill(self) -> float:
        """Share of the rows' places that hold a pair; the rest is padding."""
        return self.n_pairs / (self.n_rows * self.length)


def build_index(store: Documents, length: int, strategy: str) -> PackingIndex:
    """The index of a store for rows of `length` pairs: read where the store has it already, else computed and written.

    It is renamed into place when whole, so that processes that build it at the same time do not collide.

    Raises:
        UserError: `length` is smaller than 2, or no document has a pair.
        StorageFailed: the index cannot be written.
    """
    if length < 2:
        raise UserError(f"data.length is {length}, and a row needs at least 2 tokens\n  mend: set data.length=1024")
    path = store.path / f"packing-{strategy}-{length}"
    if not path.is_dir():
        packed = STRATEGIES[strategy](np.maximum(np.diff(store.document_starts) - 1, 0), length)
        if len(packed.pieces) == 0:
            raise UserError(f"{store.path}: no document has two tokens, so there is nothing to predict")
        _write(path, packed)
    return PackingIndex(path, length)


def _write(path: Path, packed: Packed) -> None:
    """The two arrays under a name of our own, then renamed; if another process was faster, its copy stands."""
    try:
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        try:
            np.save(draft / "rows.npy", packed.rows)
            np.save(draft / "pieces.npy", packed.pieces)
            draft.chmod(0o755)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not path.is_dir():
            raise StorageFailed(f"{path}: the packing index cannot be written: {error.strerror}") from error
