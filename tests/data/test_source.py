"""Batches do not depend on mesh, micro-batches, threads, hosts or interruptions."""

import threading

import grain
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.data.rows import PackedRows, training_rows
from jaxrl_llm.data.source import DataSource, eval_batches, token_batches
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh

T = 6


def on_mesh(n_devices, tensor=1, dims=3):
    mesh = make_mesh(MeshConfig(data=1 if n_devices < 4 else 2, tensor=tensor), jax.devices()[:n_devices])
    return NamedSharding(mesh, PartitionSpec(*[None] * (dims - 2), BATCH_AXES, None))


@pytest.fixture
def rows(make_store):
    return PackedRows(make_store([5, 40, 2, 9] * 20), T)


@pytest.fixture
def source_of(rows):
    """source_of(rows=..., batch_size=..., ...) -> DataSource, closed at the end."""
    made = []

    def make(
        order=None, batch_size=8, micro_batches=1, sharding=None, prefetch=2, fingerprint="data", dropout_seed=None
    ):
        batches = token_batches(
            training_rows({"data": (rows, 1.0)}, seed=7) if order is None else order,
            length=T,
            batch_size=batch_size,
            micro_batches=micro_batches,
            sharding=sharding or on_mesh(1),
            segmented=True,
            dropout_seed=dropout_seed,
        )
        source = DataSource(
            batches,
            tokens_per_step=batch_size * rows.length,
            steps_per_epoch=len(rows) / batch_size,
            prefetch=prefetch,
            fingerprint=fingerprint,
        )
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


def take(source, n):
    return [source.next(None)[0] for _ in range(n)]


def flat(batch):
    """The global batch as rows, [5, batch_size, T]."""
    return np.stack([np.asarray(x, np.float64).reshape(-1, T) for x in jax.tree.leaves(batch)])


def test_batches_are_the_rows_in_order(rows, source_of):
    order = training_rows({"data": (rows, 1.0)}, seed=7)
    for n, batch in enumerate(take(source_of(), 3)):
        expected = np.stack([np.stack(order[8 * n + j]) for j in range(8)], axis=1)
        np.testing.assert_array_equal(flat(batch), expected)
    assert [x.dtype for x in jax.tree.leaves(batch)] == [np.int32, np.int32, np.float32, np.int32, np.int32]


@pytest.mark.parametrize("prefetch", [0, 5])
@pytest.mark.parametrize(("n_devices", "tensor"), [(1, 1), (2, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_mesh_micro_batches_and_prefetch_only_cut(source_of, n_devices, tensor, micro_batches, prefetch):
    where = on_mesh(n_devices, tensor)
    source = source_of(batch_size=32, micro_batches=micro_batches, sharding=where, prefetch=prefetch)
    for batch, expected in zip(take(source, 3), take(source_of(batch_size=32), 3), strict=True):
        assert batch.inputs_BT.shape == (micro_batches, 32 // micro_batches, T)
        assert batch.inputs_BT.sharding == where
        np.testing.assert_array_equal(flat(batch), flat(expected))


def test_resume_twice_continues_exactly(source_of):
    whole = [flat(batch) for batch in take(source_of(), 12)]
    first = source_of(prefetch=4)
    take(first, 5)
    state, arrays = first.state()
    assert arrays == {}
    second = source_of(sharding=on_mesh(8), prefetch=1)
    second.restore(state, arrays)
    np.testing.assert_array_equal([flat(batch) for batch in take(second, 3)], whole[5:8])
    third = source_of(prefetch=3)
    take(third, 2)  # what was read before a restore is forgotten
    third.restore(*second.state())
    np.testing.assert_array_equal([flat(batch) for batch in take(third, 4)], whole[8:12])
    third.restore(*second.state())
    np.testing.assert_array_equal([flat(batch) for batch in take(third, 4)], whole[8:12])


def test_state_counts_what_was_given(rows, source_of):
    source = source_of(prefetch=6)
    assert source.state()[0] == {"position": 0, "epoch": 0.0, "fingerprint": "data"}
    take(source, 3)
    assert source.state()[0] == {"position": 3, "epoch": 24 / len(rows), "fingerprint": "data"}


def test_other_data_is_refused_on_resume(source_of):
    state = source_of(fingerprint="other").state()
    with pytest.raises(UserError, match=r"(?s)data changed since the checkpoint.*mend: put it back"):
        source_of().restore(*state)


def test_two_processes_read_disjoint_rows_of_one_batch(rows, source_of, monkeypatch):
    """A process sees its own devices only: the callback of make_array_from_callback is called for these alone."""
    order, where = training_rows({"data": (rows, 1.0)}, seed=7), on_mesh(8)
    read, parts = [], []
    for devices in (jax.devices()[:4], jax.devices()[4:]):
        mine = set()

        class Recorded:
            def __getitem__(self, i, mine=mine):
                mine.add(i)
                return order[i]

        def local(shape, sharding, callback, devices=devices):
            blocks = {str(i): i for d, i in sharding.devices_indices_map(shape).items() if d in devices}
            return np.concatenate([callback(index) for index in blocks.values()], axis=1)

        monkeypatch.setattr(jax, "make_array_from_callback", local)
        source = source_of(Recorded(), batch_size=16, micro_batches=2, sharding=where, prefetch=0)
        parts.append(take(source, 1)[0])
        source.close()
        read.append(mine)
    monkeypatch.undo()
    assert not read[0] & read[1]
    assert read[0] | read[1] == set(range(16))
    together = jax.tree.map(lambda *halves: np.concatenate(halves, axis=1), *parts)
    np.testing.assert_array_equal(flat(together), flat(take(source_of(batch_size=16), 1)[0]))


def test_error_of_a_thread_surfaces_as_it_is(rows, source_of):
    def read(i):
        if i == 16:
            raise UserError("shard 3 is damaged")
        return rows[i]

    source = source_of(grain.MapDataset.range(100).map(read), prefetch=5)
    take(source, 2)
    for _ in range(2):
        with pytest.raises(UserError, match="shard 3 is damaged"):
            source.next(None)
    assert source.state()[0]["position"] == 2


def test_seeds_of_dropout(source_of):
    """By (seed, step, row): micro-batches, mesh and interruptions do not change them, and all are different."""

    def seeds(step=0, **options):
        source = source_of(batch_size=16, **options)
        source.restore({"position": step, "fingerprint": "data"}, {})
        return source.next(None)[0].seeds_B

    assert seeds() is None
    base = seeds(dropout_seed=5)
    assert base.dtype == np.uint32
    assert base.shape == (1, 16)
    cut = seeds(dropout_seed=5, micro_batches=2, sharding=on_mesh(8))
    assert cut.sharding.spec == PartitionSpec(None, BATCH_AXES)
    np.testing.assert_array_equal(base.ravel(), np.asarray(cut).ravel())
    others = [seeds(dropout_seed=6), seeds(dropout_seed=5, step=1), seeds(dropout_seed=6, step=1)]
    assert len(set(np.concatenate([np.ravel(x) for x in [base, *others]]).tolist())) == 64


def test_close_stops_the_threads(source_of):
    before = set(threading.enumerate())
    source = source_of(prefetch=50)
    take(source, 1)
    assert set(threading.enumerate()) > before
    source.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("n_devices", [1, 8])
def test_eval_sees_every_row_once(rows, n_devices):
    batches = list(eval_batches(rows, 16, on_mesh(n_devices, dims=2)))
    assert len(rows) % 16 != 0
    assert {batch.inputs_BT.shape for batch in batches} == {(16, T)}
    together = np.concatenate([flat(batch) for batch in batches], axis=1)
    expected = np.stack([np.stack(rows[i]) for i in range(len(rows))], axis=1)
    np.testing.assert_array_equal(together[:, : len(rows)], expected)
    assert not together[:, len(rows) :].any()


@pytest.mark.parametrize(("batch_size", "micro_batches"), [(12, 1), (24, 2), (4, 1)])
def test_batch_that_the_mesh_does_not_divide(rows, source_of, batch_size, micro_batches):
    with pytest.raises(UserError, match=rf"training.batch_size={batch_size}.*\n.*multiple of {8 * micro_batches}"):
        source_of(batch_size=batch_size, micro_batches=micro_batches, sharding=on_mesh(8))
    with pytest.raises(UserError, match="eval.batch_size=12"):
        next(eval_batches(rows, 12, on_mesh(8, dims=2)))


def test_rows_that_are_one_text_carry_no_segments(make_store):
    """So that attention needs no mask; the pairs are the same ones."""
    store = make_store([30, 50, 40])
    sharding = on_mesh(1, dims=2)
    isolated, joined = (next(eval_batches(PackedRows(store, T, "concat", on), 2, sharding)) for on in (True, False))
    assert joined.segments_BT is None
    assert isolated.segments_BT is not None
    np.testing.assert_array_equal(joined.inputs_BT, isolated.inputs_BT)
