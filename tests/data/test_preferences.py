"""Batches of pairs and of judged answers: the same ones for any cut, mesh and interruption."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_llm.data.preferences import eval_groups, mismatched_answers
from jaxrl_llm.data.sequences import write_sequences
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.types import Labelled
from tests.data.grouped import (
    LONGEST,
    data_of,
    every_text,
    micro,
    on_mesh,
    random_example,
    read_slots,
    take,
)


def comparisons_in(batch, head="lm"):
    """The pairs of a batch [M, ...] as texts, counted, with what goes with each."""
    found = Counter()
    for m in range(batch.weight_P.shape[0]):
        one = micro(batch, m)
        slots = read_slots(one.answers, head)
        for better, worse, *rest in zip(
            one.better_P, one.worse_P, one.weight_P, one.margin_P, one.rating_P, strict=True
        ):
            if rest[0] > 0:
                found[slots[int(better)], slots[int(worse)], *map(float, rest)] += 1
    return found


@pytest.mark.parametrize(("n_devices", "micro_batches"), [(1, 2), (1, 4), (8, 1), (8, 4)])
@pytest.mark.parametrize("length", [64, 128])
def test_mesh_and_micro_batches_only_cut(comparisons, source_of, n_devices, micro_batches, length):
    data, sharding = data_of(length), on_mesh(n_devices)
    cut = source_of(comparisons, data, micro_batches=micro_batches, sharding=sharding, steps=3)
    whole = source_of(comparisons, data, steps=3)
    for batch, expected in zip(take(cut, 3), take(whole, 3), strict=True):
        assert batch.answers.tokens.inputs_BT.shape[0] == micro_batches
        assert batch.answers.tokens.inputs_BT.shape[1] % n_devices == 0
        assert comparisons_in(batch) == comparisons_in(expected)


def test_arrays_lie_where_they_belong(comparisons, source_of):
    sharding = on_mesh(8)
    batch = source_of(comparisons, data_of(), head="scalar", sharding=sharding, dropout_seed=1).next(None)[0]
    assert batch.answers.tokens.inputs_BT.sharding == sharding
    assert batch.answers.end_BA.sharding == sharding
    assert batch.answers.safe_BA.sharding == sharding
    assert batch.answers.tokens.seeds_B.sharding.spec == PartitionSpec(None, BATCH_AXES)
    assert batch.weight_P.sharding.is_fully_replicated
    assert not batch.answers.end_BA.sharding.is_fully_replicated


def test_all_steps_have_the_least_shape_that_serves_all(comparisons, source_of):
    batches = take(source_of(comparisons, data_of(), micro_batches=2, steps=20), 20)
    assert len({tuple(x.shape for x in jax.tree.leaves(batch)) for batch in batches}) == 1
    tokens = np.concatenate([batch.answers.tokens.segments_BT for batch in batches])
    assert tokens.any(axis=2).sum(axis=1).max() == tokens.shape[1]
    slots = np.concatenate([batch.answers.segment_BA for batch in batches])
    assert (slots > 0).sum(axis=2).max() == slots.shape[2]
    weights = np.concatenate([batch.weight_P for batch in batches])
    assert (weights > 0).sum(axis=1).max() == weights.shape[1]


def test_epochs_hold_every_example_once(comparisons, source_of):
    """53 examples in steps of 8: the order goes on over the end of an epoch."""
    batches = take(source_of(comparisons, data_of(), steps=53), 53)
    found = sum((comparisons_in(batch) for batch in batches), Counter())
    assert set(found.values()) == {8}
    assert sum(key[2] for key in found) == pytest.approx(53, abs=1e-3)


def test_a_source_has_its_steps(comparisons, source_of):
    source = source_of(comparisons, data_of(), steps=3)
    take(source, 3)
    with pytest.raises(IndexError):
        source.next(None)


def test_resume_in_the_middle(comparisons, source_of):
    options = {"micro_batches": 2, "dropout_seed": 4}
    whole = take(source_of(comparisons, data_of(), **options), 12)
    first = source_of(comparisons, data_of(), **options)
    take(first, 5)
    second = source_of(comparisons, data_of(), sharding=on_mesh(8), **options)
    assert first.state()[0]["epoch"] == pytest.approx(5 * 8 / 53)
    second.restore(*first.state())
    for batch, expected in zip(take(second, 3), whole[5:8], strict=True):
        assert comparisons_in(batch) == comparisons_in(expected)
        seeds, before = batch.answers.tokens.seeds_B, expected.answers.tokens.seeds_B
        np.testing.assert_array_equal(seeds[:, : before.shape[1]], before)  # more devices, more rows: the same seeds
    third = source_of(comparisons, data_of(), steps=30, **options)  # a longer run begins with a shorter one
    third.restore(*second.state())
    assert comparisons_in(take(third, 1)[0]) == comparisons_in(whole[8])
    other = source_of(comparisons, data_of(), seed=9)
    with pytest.raises(UserError, match="data changed since the checkpoint"):
        other.restore(*first.state())


def test_mixture_takes_examples_by_weight_and_references_follow(tmp_path, source_of):
    rng = np.random.default_rng(5)
    stores = {
        name: write_sequences(tmp_path / name, [random_example(rng, 2) for _ in range(40)], name) for name in "ab"
    }
    references = {name: rng.normal(size=store.n_answers).astype(np.float32) for name, store in stores.items()}
    expected = {
        text: (name, ref)
        for name, store in stores.items()
        for text, ref in zip(every_text(store), references[name], strict=True)
    }
    source = source_of(stores, data_of(a=3.0, b=1.0), references=references, micro_batches=2, steps=10)
    names = Counter()
    for batch, m in itertools.product(take(source, 10), range(2)):
        one = micro(batch, m)
        slots = read_slots(one.answers, "lm")
        ref = one.answers.ref_BA.ravel()
        assert ref.dtype == np.float32
        for slot, text in slots.items():
            name, value = expected[text]
            assert ref[slot] == value
            names[name] += 1
        assert not np.delete(ref, list(slots)).any()
    assert names == {"a": 120, "b": 40}


def test_judgements_with_mismatched_answers(judgements, source_of):
    """Two packings of the same prompts, each with its own reference; labels lie on their answers; no parents."""
    data, own, other = data_of(LONGEST), np.arange(53.0), -1 - np.arange(53.0)
    pairing = mismatched_answers(judgements, data)
    source = source_of(
        judgements,
        data,
        noun=Labelled,
        micro_batches=2,
        mismatch=True,
        references={"data": own, "data/mismatched": other},
        dropout_seed=1,
    )
    number = {text: i for i, text in enumerate(every_text(judgements))}
    other_number = {text: i for i, text in enumerate(every_text(pairing))}
    for batch, m in itertools.product(take(source, 3), range(2)):
        one = micro(batch, m)
        slots, others = read_slots(one.answers, "lm"), read_slots(one.mismatched, "lm")
        assert one.answers.tokens.parents_BT is None
        assert (one.answers.tokens.seeds_B is None, one.mismatched.tokens.seeds_B is None) == (False, True)
        assert len(slots) == len(others) == 4
        label, ref, other_ref = one.label_BA.ravel(), one.answers.ref_BA.ravel(), one.mismatched.ref_BA.ravel()
        assert {label[i] for i in range(len(label)) if i not in slots} <= {-1}
        assert all(label[slot] == number[text] % 2 and ref[slot] == number[text] for slot, text in slots.items())
        assert all(other_ref[slot] == -1 - other_number[text] for slot, text in others.items())
        assert sorted(map(number.get, slots.values())) == sorted(map(other_number.get, others.values()))


@pytest.mark.parametrize("max_rows", [None, 20])
def test_eval_holds_each_example_once(judgements, max_rows):
    batches = list(
        eval_groups(
            judgements,
            data_of(),
            noun=Labelled,
            head="scalar",
            batch_size=16,
            sharding=on_mesh(stacked=False),
            max_rows=max_rows,
            references=np.arange(53.0),
            mismatch=True,
        )
    )
    examples = np.concatenate([where.example_N[where.example_N >= 0] for _, where in batches])
    assert sorted(examples.tolist()) == list(range(max_rows or 53))
    for batch, where in batches:
        np.testing.assert_array_equal(np.ravel(batch.label_BA), np.where(where.example_N < 0, -1, where.example_N % 2))
        np.testing.assert_array_equal(np.ravel(batch.answers.ref_BA), np.maximum(where.answer_N, 0))
        assert len(read_slots(jax.device_get(batch.mismatched), "scalar")) == (where.answer_N >= 0).sum()


def test_bad_data(comparisons, source_of):
    with pytest.raises(
        UserError, match=r"a prompt with an answer has 3\d tokens.*data.length=20\n  mend: a data.max_length"
    ):
        source_of(comparisons, data_of(20))
    with pytest.raises(
        UserError, match=r"'data' is shorter than one batch: it has 53 example\(s\), and a batch takes 64"
    ):
        source_of(comparisons, data_of(), batch_size=64)
    with pytest.raises(UserError, match=r"data.mix.b.weight=0.0001 is less than a thousandth"):
        source_of({"a": comparisons, "b": comparisons}, data_of(a=1.0, b=1e-4))
