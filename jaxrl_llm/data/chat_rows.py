"""Conversations in rows: what `PackedRows` is to documents, with weights of its own for every token."""

import numpy as np

from jaxrl_llm.data.packing import build_index
from jaxrl_llm.data.rows import Row
from jaxrl_llm.data.sequences import SequenceStore


class ChatRows:
    """The conversations of a store in rows of `length`, each whole in its row: a data source for grain.

    A conversation of n tokens gives n - 1 (input, target) pairs; a pair weighs what its target does.

    Args:
        store: of conversations, no longer than `length` each.
        length: T.
        packing: "first_fit" puts several into a row, which do not see each other; "none" gives each its own.
    """

    isolate_documents = True

    def __init__(self, store: SequenceStore, length: int, packing: str = "first_fit") -> None:
        self.store, self.length = store, length
        self.index = build_index(store, length, packing)

    def __len__(self) -> int:
        return self.index.n_rows

    def __getitem__(self, row: int) -> Row:
        """The arrays of a row, each [T]; safe to call from threads."""
        inputs, targets, segments, positions = np.zeros((4, self.length), np.int32)
        weights = np.zeros(self.length, np.float32)
        end = 0
        for number, (example, _, size) in enumerate(self.index[row].tolist(), start=1):
            ids, counts = self.store.answer(example, 0)
            begin, end = end, end + size
            inputs[begin:end] = ids[:-1]
            targets[begin:end] = ids[1:]
            weights[begin:end] = counts[1:]
            segments[begin:end] = number
            positions[begin:end] = np.arange(size)
        return Row(inputs, targets, weights, segments, positions)
