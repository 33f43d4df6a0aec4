"""Rows as arrays, and the order in which training reads them."""

import numpy as np
import pytest

from jaxrl_llm.data.rows import PackedRows, Row, training_rows


class Numbered:
    """Stands for the rows of a corpus: element i is i + offset."""

    def __init__(self, n, offset=0):
        self.n, self.offset = n, offset

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return i + self.offset


def test_row_of_three_documents(make_store):
    rows = PackedRows(make_store([3, 4, 2]), 8)
    assert len(rows) == 1
    assert rows[0].inputs_T.tolist() == [0, 1, 3, 4, 5, 7, 0, 0]
    assert rows[0].targets_T.tolist() == [1, 2, 4, 5, 6, 8, 0, 0]
    assert rows[0].weights_T.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert rows[0].segments_T.tolist() == [1, 1, 2, 2, 2, 3, 0, 0]
    assert rows[0].positions_T.tolist() == [0, 1, 0, 1, 2, 0, 0, 0]
    assert [a.dtype for a in rows[0]] == [np.int32, np.int32, np.float32, np.int32, np.int32]


def test_documents_that_see_each_other(make_store):
    row = PackedRows(make_store([3, 4, 2]), 8, isolate_documents=False)[0]
    assert row.segments_T.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert row.positions_T.tolist() == list(range(8))
    assert row.inputs_T.tolist() == [0, 1, 3, 4, 5, 7, 0, 0]


@pytest.mark.parametrize("packing", ["concat", "first_fit"])
def test_epoch_holds_every_pair_once(make_store, packing):
    lengths = np.random.default_rng(1).integers(1, 30, 200).tolist()
    rows = PackedRows(make_store(lengths), 16, packing)
    order = training_rows({"data": (rows, 1.0)}, seed=3)
    last = np.cumsum(lengths) - 1  # tokens are 0, 1, 2, ..., and nothing is predicted from a document's last
    expected = [(t, t + 1) for t in range(sum(lengths)) if t not in last]
    for epoch in range(2):
        seen = [row_pairs for i in range(len(rows)) for row_pairs in pairs(order[epoch * len(rows) + i])]
        assert sorted(seen) == expected


def pairs(row: Row) -> list[tuple[int, int]]:
    real = row.weights_T > 0
    np.testing.assert_array_equal(real, row.segments_T > 0)
    return list(zip(row.inputs_T[real].tolist(), row.targets_T[real].tolist(), strict=True))


def test_shuffle_is_another_permutation_each_epoch_and_seed():
    n = 101
    orders = {
        (seed, epoch): [training_rows({"data": (Numbered(n), 1.0)}, seed)[epoch * n + i] for i in range(n)]
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert all(sorted(order) == list(range(n)) for order in orders.values())
    assert len(set(map(tuple, orders.values()))) == 6
    plain = training_rows({"data": (Numbered(n), 1.0)}, seed=0, shuffle=False)
    assert [plain[i] for i in range(2 * n)] == [*range(n), *range(n)]


def test_mixture_keeps_its_proportions_in_every_window():
    sizes, weights = {"a": 50, "b": 7000, "c": 300}, {"a": 1.0, "b": 8.0, "c": 3.0}
    corpora = {name: (Numbered(size, 10_000 * k), weights[name]) for k, (name, size) in enumerate(sizes.items())}
    mixture = training_rows(corpora, seed=0)
    drawn = np.array([mixture[i] // 10_000 for i in range(6000)])
    for k, weight in enumerate(weights.values()):
        counted = np.cumsum(drawn == k)
        expected = weight / 12 * np.arange(1, 6001)
        assert np.abs(counted - expected).max() <= 2
    # Every corpus is read epoch by epoch, in the order it has alone.
    of_a = [mixture[i] for i in range(6000) if drawn[i] == 0]
    assert sorted(of_a[:50]) == sorted(of_a[50:100]) == list(range(50))
    alone = training_rows({"a": corpora["a"]}, seed=0)
    assert of_a == [alone[i] for i in range(len(of_a))]


def test_order_of_names_and_of_reading_means_nothing():
    corpora = {"a": (Numbered(30), 0.3), "b": (Numbered(40, 100), 0.7)}
    mixture = training_rows(corpora, seed=5)
    turned = training_rows(dict(reversed(corpora.items())), seed=5)
    places = [500, 3, 41, 3, 0, 10**9]
    assert [mixture[i] for i in places] == [turned[i] for i in places]
    assert mixture[41] == [mixture[i] for i in range(42)][41]
