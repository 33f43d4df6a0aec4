"""The packing index: every pair exactly once, no row too long, and built by two processes at once."""

import shutil

import numpy as np
import pytest

from jaxrl_llm.data import packing
from jaxrl_llm.data.packing import STRATEGIES, build_index
from jaxrl_llm.errors import StorageFailed, UserError

PAIRS = np.random.default_rng(0).integers(0, 20, 300)  # some documents have none, many are longer than a row


@pytest.mark.parametrize("length", [2, 7, 64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_pair_is_in_one_row(strategy, length):
    packed = STRATEGIES[strategy](PAIRS, length)
    seen = sorted((d, start + i) for d, start, size in packed.pieces.tolist() for i in range(size))
    assert seen == [(d, i) for d, n in enumerate(PAIRS) for i in range(n)]
    in_row = np.add.reduceat(packed.pieces[:, 2], packed.rows[:-1])
    assert in_row.max() <= length
    assert packed.rows[0] == 0
    assert packed.rows[-1] == len(packed.pieces)


def test_concat_fills_every_row_but_the_last():
    packed = STRATEGIES["concat"](np.array([3, 0, 6, 1]), 4)
    assert packed.rows.tolist() == [0, 2, 3, 5]
    assert packed.pieces.tolist() == [[0, 0, 3], [2, 0, 1], [2, 1, 4], [2, 5, 1], [3, 0, 1]]


def test_first_fit_takes_the_first_row_with_room():
    packed = STRATEGIES["first_fit"](np.array([3, 9, 2, 1, 2, 4]), 4)
    rows = np.split(packed.pieces, packed.rows[1:-1])
    assert [row.tolist() for row in rows] == [
        [[0, 0, 3], [1, 8, 1]],  # what is left of document 1 after two rows of its own
        [[1, 0, 4]],
        [[1, 4, 4]],
        [[2, 0, 2], [3, 0, 1]],
        [[4, 0, 2]],
        [[5, 0, 4]],
    ]


def test_first_fit_keeps_short_documents_whole():
    packed = STRATEGIES["first_fit"](PAIRS, 11)
    whole = packed.pieces[PAIRS[packed.pieces[:, 0]] <= 11]
    np.testing.assert_array_equal(whole[:, 2], PAIRS[whole[:, 0]])
    assert len(whole) == ((PAIRS > 0) & (PAIRS <= 11)).sum()


def test_first_fit_is_what_a_plain_search_gives():
    length, rows = 7, []
    for document, n in enumerate(PAIRS.tolist()):
        for start in range(0, n, length):
            size = min(length, n - start)
            row = next((row for row in rows if sum(piece[2] for piece in row) + size <= length), None)
            if row is None:
                rows.append(row := [])
            row.append([document, start, size])
    packed = STRATEGIES["first_fit"](PAIRS, length)
    assert [row.tolist() for row in np.split(packed.pieces, packed.rows[1:-1])] == rows


def test_index_is_written_once_and_read_back(make_store, monkeypatch):
    store = make_store([5, 9, 2])
    index = build_index(store, 4, "concat")
    assert index.n_rows == 4
    assert index[1].tolist() == [[1, 0, 4]]
    assert index.fill == 13 / 16
    monkeypatch.setitem(STRATEGIES, "concat", None)  # computing it again would fail
    assert build_index(store, 4, "concat")[3].tolist() == [[2, 0, 1]]


def test_a_faster_process_wins(make_store, monkeypatch):
    store = make_store([5, 9, 2])

    def slow(pairs, length):
        monkeypatch.setitem(STRATEGIES, "concat", packing.concat)
        build_index(store, length, "concat")  # the other process, from start to end
        return packing.concat(pairs, length)

    monkeypatch.setitem(STRATEGIES, "concat", slow)
    assert build_index(store, 4, "concat").n_rows == 4
    assert sorted(p.name for p in store.path.glob("*packing*")) == ["packing-concat-4"]


def test_errors_are_the_users(make_store):
    with pytest.raises(UserError, match=r"data.length is 1"):
        build_index(make_store([5]), 1, "concat")
    with pytest.raises(UserError, match="nothing to predict"):
        build_index(make_store([1, 1], "ones"), 4, "concat")


def test_index_that_cannot_be_written(make_store):
    store = make_store([5])
    shutil.rmtree(store.path)
    with pytest.raises(StorageFailed, match="cannot be written"):
        build_index(store, 4, "concat")


def test_damaged_index(make_store):
    store = make_store([5])
    build_index(store, 4, "concat")
    (store.path / "packing-concat-4" / "pieces.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged(?s:.*)mend: rm -r"):
        build_index(store, 4, "concat")
