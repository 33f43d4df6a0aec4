"""Groups in rows: which row each lies in, from lengths alone, and the rows' arrays.

A group goes first-fit into a row: the prompt, then its answers.  One that is too long for a row is cut into chunks,
each with a copy of the prompt; where the prompt is not shared, every answer is a chunk.  What each row holds follows
from the examples of its micro-batch, so every process knows all of it and reads tokens only for the rows that it keeps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxrl_llm.data.groups import GroupStore, count_pairs, spans, sums_before
from jaxrl_llm.errors import UserError
from jaxrl_llm.types import Head

BLOCK = 1 << 18  # chunks that are planned at once


class Shapes(NamedTuple):
    """Of every micro-batch of a run, so that one compilation serves all."""

    rows: int  # R
    slots: int  # A, answers of a row
    pairs: int  # P


@dataclass(frozen=True)
class PackedAnswers:
    """`types.Answers` on the host.  Its N answers are listed in the order of their examples."""

    inputs_BT: np.ndarray  # int32 [M, R, T], as are the next four; rows that nobody asked for are 0
    targets_BT: np.ndarray
    weights_BT: np.ndarray  # float32
    segments_BT: np.ndarray
    positions_BT: np.ndarray
    parents_BT: np.ndarray | None
    segment_BA: np.ndarray  # int32 [M, R, A]
    end_BA: np.ndarray
    slot_N: np.ndarray  # int64: where the answer is among all M·R·A slots
    owner_N: np.ndarray  # int64: place of its example among all M·b
    answer_N: np.ndarray  # int64: its number in the store

    def in_slots(self, values_N: np.ndarray, empty: int) -> np.ndarray:
        """[M, R, A]: the values of the answers, `empty` in slots without one."""
        values = np.full(self.segment_BA.shape, empty, values_N.dtype)
        values.reshape(-1)[self.slot_N] = values_N
        return values


class PackedPairs(NamedTuple):
    """The pairs of `types.Pairs` on the host, each [M, P]."""

    better_P: np.ndarray
    worse_P: np.ndarray
    weight_P: np.ndarray
    margin_P: np.ndarray
    rating_P: np.ndarray


class _Chunks(NamedTuple):
    """Chunks in the order of their examples, int64 [C] each."""

    number: np.ndarray  # in the store
    owner: np.ndarray  # place of its example in the batch
    micro: np.ndarray  # micro-batch
    row: np.ndarray  # in the micro-batch


class _Pieces(NamedTuple):
    """Runs of tokens in the rows, int64 [n] each."""

    start: np.ndarray  # in all rows, one after another
    size: np.ndarray
    segment: np.ndarray
    parent: np.ndarray
    position: np.ndarray  # of the first token

    def only(self, which: np.ndarray) -> "_Pieces":
        return _Pieces(*(column[which] for column in self))


class GroupPacker:
    """Packs groups into rows of `length`; safe to share between threads.

    Args:
        store: the groups, with prompts of at least one token.
        length: T.
        head: a language model's rows begin each answer with the token that it is predicted from; see `types.Answers`.
        share_prompt: one copy of the prompt for all answers in a row; else each answer is a text with its own.

    Raises:
        UserError: a prompt with one answer is longer than a row.
    """

    def __init__(self, store: GroupStore, length: int, head: Head, share_prompt: bool) -> None:
        self.store, self.length, self.lm, self.share_prompt = store, length, head == "lm", share_prompt
        self._shared = store.prompt_lengths - int(self.lm)  # tokens before the answers
        self._first = self._cut()  # first answer of each chunk of the store
        self._example = np.searchsorted(store.answer_starts, self._first, side="right") - 1
        self._answers = np.diff(self._first, append=len(store.answer_lengths))
        self._size = self._shared[self._example] + np.add.reduceat(store.answer_lengths, self._first)
        self._chunk_starts = np.searchsorted(self._first, store.answer_starts)  # [E + 1]: first chunk of each example
        self._pairs = count_pairs(store)
        if self._size.max() > length:
            raise UserError(
                f"a prompt with an answer has {self._size.max():,} tokens, and a row data.length={length}\n"
                "  mend: a data.max_length that is not larger than data.length"
            )

    def shapes(self, batches: Iterable[np.ndarray], multiple: int) -> Shapes:
        """The least that these micro-batches, int64 [S, b] examples each, need; rows rounded up to a `multiple`."""
        rows = slots = pairs = 1
        for examples in batches:
            step = max(1, BLOCK // examples.shape[1])
            for part in (examples[i : i + step] for i in range(0, len(examples), step)):
                chunks = self._place(part)
                rows = max(rows, int(chunks.row.max()) + 1)
                line = chunks.micro * rows + chunks.row
                slots = max(slots, int(np.bincount(line, self._answers[chunks.number]).max()))
                pairs = max(pairs, int(self._pairs[part].sum(axis=1).max()))
        return Shapes(-(-rows // multiple) * multiple, slots, pairs)

    def pack(self, examples: np.ndarray, shapes: Shapes, mine: np.ndarray | None = None) -> PackedAnswers:
        """Examples, int64 [M, b], in rows.  Tokens are read for the rows of `mine`, bool [R], alone; None: for all."""
        chunks = self._place(examples)
        number, line = chunks.number, chunks.micro * shapes.rows + chunks.row
        shared, answers = self._shared[self._example[number]], self._answers[number]
        start = line * self.length + sums_before(self._size[number], line)
        segment = 1 + sums_before(1 + answers if self.share_prompt else np.ones_like(answers), line)
        slot = line * shapes.slots + sums_before(answers, line)

        chunk_N = np.repeat(np.arange(len(number)), answers)
        answer_N, nth_N = spans(self._first[number], answers), spans(np.zeros_like(answers), answers)
        size_N = self.store.answer_lengths[answer_N]
        start_N = (start + shared)[chunk_N] + sums_before(size_N, chunk_N)
        segment_N = segment[chunk_N] + (1 + nth_N if self.share_prompt else 0)
        slot_N = slot[chunk_N] + nth_N

        packed = self._empty(len(examples), shapes, slot_N, chunks.owner[chunk_N], answer_N)
        packed.segment_BA.reshape(-1)[slot_N] = segment_N
        packed.end_BA.reshape(-1)[slot_N] = start_N % self.length + size_N - 1
        prompts = _Pieces(start, shared, segment, np.zeros_like(shared), np.zeros_like(shared))
        texts = _Pieces(start_N, size_N, segment_N, segment[chunk_N], shared[chunk_N])
        keep = np.ones(len(number), bool) if mine is None else mine[chunks.row]
        self._read(packed, number[keep], prompts.only(keep), texts.only(keep[chunk_N]))
        return packed

    def pairs(self, packed: PackedAnswers, examples: np.ndarray, shapes: Shapes) -> PackedPairs:
        """All pairs of answers to one of the examples, [M, b], of which one is better; see `types.Pairs`."""
        n_micro, per_micro = examples.shape
        sizes = np.diff(self.store.answer_starts)[examples.ravel()]
        first = np.cumsum(sizes) - sizes  # of the answers of each example, in N
        others = sizes[packed.owner_N]
        one, other = np.repeat(np.arange(len(others)), others), spans(first[packed.owner_N], others)
        rank = self.store.ranks[packed.answer_N]
        better, worse = (side[rank[one] < rank[other]] for side in (one, other))
        owner = packed.owner_N[better]
        micro, example = owner // per_micro, examples.ravel()[owner]
        place = micro * shapes.pairs + sums_before(np.ones_like(owner), micro)
        slot = packed.slot_N % (shapes.rows * shapes.slots)  # in its micro-batch

        def column(values: np.ndarray, dtype: type, empty: int = 0) -> np.ndarray:
            flat = np.full(n_micro * shapes.pairs, empty, dtype)
            flat[place] = values
            return flat.reshape(n_micro, shapes.pairs)

        return PackedPairs(
            better_P=column(slot[better], np.int32),
            worse_P=column(slot[worse], np.int32),
            weight_P=column(1 / self._pairs[example], np.float32),
            margin_P=column(np.nan_to_num(self.store.margin[example]), np.float32),
            rating_P=column(self.store.rating[example], np.int32, -1),
        )

    def _cut(self) -> np.ndarray:
        """The first answers of all chunks: as many answers as fit into a row with the prompt, in their order."""
        starts, lengths = self.store.answer_starts, self.store.answer_lengths
        if not self.share_prompt:
            return np.arange(len(lengths))
        sizes = self._shared + np.add.reduceat(lengths, starts[:-1])
        more = []
        for example in np.flatnonzero(sizes > self.length).tolist():
            full = room = self.length - int(self._shared[example])
            for answer in range(starts[example], starts[example + 1]):
                room -= int(lengths[answer])
                if room < 0 and answer > starts[example]:
                    more.append(answer)
                    room = full - int(lengths[answer])
        return np.sort(np.append(starts[:-1], np.asarray(more, np.int64)))

    def _place(self, examples: np.ndarray) -> _Chunks:
        """The rows of the chunks of examples, int64 [M, b]."""
        flat = examples.ravel()
        counts = self._chunk_starts[flat + 1] - self._chunk_starts[flat]
        number, owner = spans(self._chunk_starts[flat], counts), np.repeat(np.arange(len(flat)), counts)
        micro = owner // examples.shape[1]
        nth = sums_before(np.ones_like(micro), micro)
        sizes = np.zeros((len(examples), int(nth.max()) + 1), np.int64)
        sizes[micro, nth] = self._size[number]
        return _Chunks(number, owner, micro, first_fit(sizes, self.length)[micro, nth])

    def _empty(
        self, n_micro: int, shapes: Shapes, slot_N: np.ndarray, owner_N: np.ndarray, answer_N: np.ndarray
    ) -> PackedAnswers:
        def zeros(size: int, dtype: type = np.int32) -> np.ndarray:
            return np.zeros((n_micro, shapes.rows, size), dtype)

        T, A = self.length, shapes.slots
        parents = zeros(T) if self.share_prompt else None
        tokens = (zeros(T), zeros(T), zeros(T, np.float32), zeros(T), zeros(T), parents)
        return PackedAnswers(*tokens, zeros(A), zeros(A), slot_N, owner_N, answer_N)

    def _read(self, packed: PackedAnswers, chunks: np.ndarray, prompts: _Pieces, answers: _Pieces) -> None:
        """Fill in the tokens of chunks, whose prompts and answers are these pieces."""
        heads, texts, weights, inputs = [], [], [], []
        store, starts = self.store, self.store.answer_starts
        for example, first, n in zip(
            self._example[chunks].tolist(), self._first[chunks].tolist(), self._answers[chunks].tolist(), strict=True
        ):
            prompt = store.prompt(example)
            heads.append(prompt)
            for answer in range(first, first + n):
                ids, weight = store.answer(example, answer - int(starts[example]))
                texts.append(ids)
                weights.append(weight)
                inputs += [prompt[-1:], ids[:-1]] if self.lm else [ids]
        at = _mark(packed, prompts)
        if self.lm:
            _put(packed.inputs_BT, at, [head[:-1] for head in heads])
            _put(packed.targets_BT, at, [head[1:] for head in heads])
        else:
            _put(packed.inputs_BT, at, heads)
        at = _mark(packed, answers)
        _put(packed.inputs_BT, at, inputs)
        _put(packed.weights_BT, at, weights)
        if self.lm:
            _put(packed.targets_BT, at, texts)


def first_fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """Rows of things of so many tokens, [S, C]: in each of S batches, each goes to the first row with room for it."""
    room = np.full(sizes.shape, length)
    rows, batch = np.zeros(sizes.shape, np.int64), np.arange(len(sizes))
    for nth in range(sizes.shape[1]):
        rows[:, nth] = (room[:, : nth + 1] >= sizes[:, nth, None]).argmax(axis=1)
        room[batch, rows[:, nth]] -= sizes[:, nth]
    return rows


def _mark(packed: PackedAnswers, pieces: _Pieces) -> np.ndarray:
    """Write segments, positions and parents of pieces; where their tokens go."""
    at = spans(pieces.start, pieces.size)
    packed.segments_BT.reshape(-1)[at] = np.repeat(pieces.segment, pieces.size)
    packed.positions_BT.reshape(-1)[at] = spans(pieces.position, pieces.size)
    if packed.parents_BT is not None:
        packed.parents_BT.reshape(-1)[at] = np.repeat(pieces.parent, pieces.size)
    return at


def _put(array: np.ndarray, at: np.ndarray, values: Sequence[np.ndarray]) -> None:
    if values:
        array.reshape(-1)[at] = np.concatenate(values)
