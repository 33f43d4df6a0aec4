"""Conversations in rows: each pair of each conversation once, whole, with its own weight."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.sequences import Encoded, write_sequences
from jaxrl_llm.data.source import eval_batches
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh

LENGTHS = (5, 3, 8, 2, 4)


@pytest.fixture
def store(tmp_path):
    """Conversations of LENGTHS tokens: 100, 101, ..., 200, 201, ...; token t of conversation c weighs c + t / 10."""
    conversations = [
        ([100 * c + t for t in range(length)], [0.0, *(c + t / 10 for t in range(1, length))])
        for c, length in enumerate(LENGTHS, 1)
    ]
    return write_sequences(tmp_path / "store", [Encoded([], [each]) for each in conversations])


def test_a_row_shows_its_conversations_with_their_weights(store):
    rows = ChatRows(store, 8)
    assert len(rows) == 3
    row = rows[0]
    assert row.inputs_T.tolist() == [100, 101, 102, 103, 200, 201, 400, 0]
    assert row.targets_T.tolist() == [101, 102, 103, 104, 201, 202, 401, 0]
    assert row.weights_T == pytest.approx([1.1, 1.2, 1.3, 1.4, 2.1, 2.2, 4.1, 0])
    assert row.segments_T.tolist() == [1, 1, 1, 1, 2, 2, 3, 0]
    assert row.positions_T.tolist() == [0, 1, 2, 3, 0, 1, 0, 0]
    assert row.weights_T.dtype == np.float32


@pytest.mark.parametrize("packing", ["first_fit", "none"])
def test_every_pair_once_and_conversations_whole(store, packing):
    rows = ChatRows(store, 8, packing)
    assert len(rows) == (3 if packing == "first_fit" else len(LENGTHS))
    seen = []
    for row in (rows[i] for i in range(len(rows))):
        for segment in range(1, row.segments_T.max() + 1):
            seen.append(row.targets_T[row.segments_T == segment].tolist())
    assert sorted(seen) == [[100 * c + t for t in range(1, length)] for c, length in enumerate(LENGTHS, 1)]


def test_rows_make_batches_as_text_does(store):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batches = list(eval_batches(ChatRows(store, 8), 2, NamedSharding(mesh, PartitionSpec(BATCH_AXES))))
    total = sum(float(batch.weights_BT.sum()) for batch in batches)
    assert len(batches) == 2
    assert total == pytest.approx(sum(store.answer(c, 0)[1].sum() for c in range(len(LENGTHS))))
    assert batches[0].segments_BT is not None
