"""Packed rows as arrays: random access to the rows of one corpus, and the endless order in which training reads."""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import grain
import numpy as np

from jaxrl_llm.data.packing import build_index
from jaxrl_llm.data.store import TokenStore


class Row(NamedTuple):
    """One row of `types.Tokens`, field by field, on the host."""

    inputs_T: np.ndarray  # int32 ids that are read; 0 on padding
    targets_T: np.ndarray  # int32 ids to predict: the next token of the same document; 0 on padding
    weights_T: np.ndarray  # float32, what a target counts: 1, or in a conversation its message's weight; 0 on padding
    segments_T: np.ndarray  # int32 number of the document in its row, from 1; 0 is padding
    positions_T: np.ndarray  # int32, from 0 in each document's piece


class Rows(Protocol):
    """Random access to the packed rows of a corpus: `PackedRows` of text, `ChatRows` of conversations."""

    length: int  # T
    isolate_documents: bool  # a text in a row sees only itself

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Row: ...


class PackedRows:
    """The rows of a token store, in the order of its packing index: a data source for grain.

    Without `isolate_documents` a row is one text, as Llama 2 was pretrained: all its tokens are segment 1 and
    positions run from 0 to T - 1, so a document sees those before it.  The pairs are the same ones.
    """

    def __init__(self, store: TokenStore, length: int, packing: str = "concat", isolate_documents: bool = True) -> None:
        self.store, self.length, self.isolate_documents = store, length, isolate_documents
        self.index = build_index(store, length, packing)

    def __len__(self) -> int:
        return self.index.n_rows

    def __getitem__(self, row: int) -> Row:
        """The arrays of a row, each [T]; safe to call from threads."""
        arrays = np.zeros((4, self.length), np.int32)
        inputs, targets, segments, positions = arrays
        end = 0
        for number, (document, first, size) in enumerate(self.index[row].tolist(), start=1):
            tokens = self.store.read(document, first, size + 1)
            begin, end = end, end + size
            inputs[begin:end] = tokens[:-1]
            targets[begin:end] = tokens[1:]
            segments[begin:end] = number if self.isolate_documents else 1
            positions[begin:end] = np.arange(size)
        if not self.isolate_documents:
            positions[:] = np.arange(self.length)
        return Row(inputs, targets, (segments > 0).astype(np.float32), segments, positions)


def training_rows(
    corpora: Mapping[str, tuple[Rows | Sequence[int], float]], seed: int, shuffle: bool = True
) -> grain.MapDataset:
    """The endless order in which training reads one corpus, or several: name -> (rows or numbers, weight).

    Each corpus is shuffled anew every epoch, by (seed, its name) alone.  A mixture takes its elements from the corpora
    evenly, in proportion to their weights (to within a hundredth of the smallest).  Element i depends on i alone, so
    that any process can read any position at once.
    """
    names = sorted(corpora)  # their order in a config means nothing
    orders = []
    for name in names:
        order = grain.MapDataset.source(corpora[name][0])
        if shuffle:
            order = order.shuffle(seed=zlib.crc32(f"{seed}/{name}".encode()))
        orders.append(order.repeat())
    return orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, [corpora[name][1] for name in names])
