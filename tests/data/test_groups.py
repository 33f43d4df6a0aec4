"""Groups of answers in rows: read back by an oracle that knows nothing of how they were packed."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.data.config import ExamplesConfig, PreferenceDataConfig
from jaxrl_llm.data.group_packing import GroupPacker, first_fit
from jaxrl_llm.data.groups import join, mismatched
from jaxrl_llm.data.preferences import eval_groups, mismatched_answers, preference_source
from jaxrl_llm.data.sequences import Encoded, write_sequences
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.types import Labelled, Pairs

LONGEST = 16 + 20  # prompt + answer of the stores made here


def on_mesh(n_devices=1, stacked=True):
    mesh = make_mesh(MeshConfig(data=1 if n_devices < 4 else 2), jax.devices()[:n_devices])
    return NamedSharding(mesh, PartitionSpec(*[None] * stacked, BATCH_AXES, None))


def random_example(rng, k=None, label=-1):
    """Ids are so many that no two texts are the same; a few tokens of an answer weigh nothing."""
    k = k or int(rng.integers(2, 11))
    texts = [rng.integers(1, 2**31 - 1, rng.integers(1, 20)).tolist() for _ in range(k)]
    ranks = rng.integers(0, 3, k)
    if k > 1:
        ranks[:2] = 0, 1
    return Encoded(
        prompt=rng.integers(1, 2**31 - 1, rng.integers(1, 16)).tolist(),
        answers=[(text, [1.0, *rng.choice([0.0, 0.5, 1.0], len(text) - 1).tolist()]) for text in texts],
        ranks=ranks.tolist(),
        safe=rng.integers(-1, 2, k).tolist(),
        margin=float(rng.choice([np.nan, 0.5, 2.0])),
        rating=int(rng.integers(-1, 4)),
        label=label,
    )


@pytest.fixture
def comparisons(tmp_path):
    rng = np.random.default_rng(1)
    return write_sequences(tmp_path / "comparisons", [random_example(rng) for _ in range(53)], "comparisons")


@pytest.fixture
def judgements(tmp_path):
    rng = np.random.default_rng(2)
    return write_sequences(tmp_path / "judgements", [random_example(rng, 1, i % 2) for i in range(53)], "judgements")


def data_of(length=128, share_prompt=True, **weights):
    mix = {name: ExamplesConfig(path="x", weight=weight) for name, weight in weights.items()}
    return PreferenceDataConfig(path=None if mix else "x", mix=mix, length=length, share_prompt=share_prompt)


@pytest.fixture
def source_of():
    """source_of(stores, data, ...) -> DataSource, closed at the end."""
    made = []

    def make(stores, data, **options):
        defaults = {"noun": Pairs, "head": "lm", "steps": 12, "seed": 3, "batch_size": 8, "micro_batches": 1}
        stores = stores if isinstance(stores, dict) else {"data": stores}
        made.append(preference_source(stores, data, **{**defaults, "sharding": on_mesh(), **options}))
        return made[-1]

    yield make
    for source in made:
        source.close()


def take(source, n):
    return [jax.device_get(source.next(None)[0]) for _ in range(n)]


def micro(batch, m):
    return jax.tree.map(lambda x: x[m], batch)


def whole_text(store, example, answer):
    """What the oracle should find: ids and weights of prompt and answer."""
    prompt, (ids, weights) = store.prompt(example), store.answer(example, answer)
    return tuple(prompt.tolist() + ids.tolist()), tuple([0.0] * len(prompt) + weights.tolist())


def every_text(store):
    sizes = np.diff(store.answer_starts)
    return [whole_text(store, e, a) for e in range(len(sizes)) for a in range(sizes[e])]


def read_slots(answers, head):
    """The oracle: slot -> (ids, weights) of prompt and answer, from the arrays [R, ...] of a micro-batch alone."""
    tokens, found, seen = answers.tokens, {}, np.zeros_like(answers.tokens.segments_BT, bool)
    for row, slot in zip(*np.nonzero(answers.segment_BA), strict=True):
        segment = answers.segment_BA[row, slot]
        places = np.flatnonzero(tokens.segments_BT[row] == segment)
        assert places[-1] == answers.end_BA[row, slot]
        assert (np.diff(places) == 1).all()
        if tokens.parents_BT is not None:
            [parent] = set(tokens.parents_BT[row, places].tolist())
            shared = np.flatnonzero(tokens.segments_BT[row] == parent)
            assert not tokens.parents_BT[row, shared].any()
            assert not tokens.weights_BT[row, shared].any()
            places = np.concatenate([shared, places])
        np.testing.assert_array_equal(tokens.positions_BT[row, places], np.arange(len(places)))
        ids, weights = tokens.inputs_BT[row, places], tokens.weights_BT[row, places]
        if head == "lm":  # each input but the first is the target before it
            targets = tokens.targets_BT[row, places]
            lead = targets[:-1]
            np.testing.assert_array_equal(lead, ids[1:])
            ids, weights = np.append(ids, targets[-1]), np.append(0, weights)
        else:
            assert not tokens.targets_BT[row].any()
        found[int(row) * answers.segment_BA.shape[1] + int(slot)] = (tuple(ids.tolist()), tuple(weights.tolist()))
        seen[row, places] = True
    np.testing.assert_array_equal(seen, tokens.segments_BT > 0)
    for field in (tokens.inputs_BT, tokens.targets_BT, tokens.weights_BT, tokens.positions_BT):
        assert not field[~seen].any()
    return found


# 36 cuts almost every group, each chunk with a copy of the prompt; 400 holds whole the longest.
@pytest.mark.parametrize("length", [LONGEST, 128, 400])
@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("head", ["lm", "scalar", "scalar+safety"])
def test_every_answer_is_in_one_slot(comparisons, head, share_prompt, length):
    expected, data = every_text(comparisons), data_of(length, share_prompt)
    seen, shapes = [], set()
    sharding = on_mesh(8, stacked=False)
    for batch, where in eval_groups(comparisons, data, noun=Pairs, head=head, batch_size=8, sharding=sharding):
        assert (batch.answers.tokens.parents_BT is not None) == share_prompt
        slots = read_slots(jax.device_get(batch.answers), head)
        filled = np.flatnonzero(where.answer_N >= 0).tolist()
        assert filled == sorted(slots)
        assert [expected[n] for n in where.answer_N[filled]] == [slots[i] for i in filled]
        starts = comparisons.answer_starts[where.example_N[filled]]
        ends = comparisons.answer_starts[where.example_N[filled] + 1]
        assert ((starts <= where.answer_N[filled]) & (where.answer_N[filled] < ends)).all()
        assert (where.example_N[where.answer_N < 0] == -1).all()
        seen += where.answer_N[filled].tolist()
        shapes.add(tuple(x.shape for x in jax.tree.leaves(batch)))
        if head == "lm":
            assert batch.answers.safe_BA is None
        else:
            safe = np.ravel(batch.answers.safe_BA)
            np.testing.assert_array_equal(safe[filled], comparisons.safe[where.answer_N[filled]])
    assert sorted(seen) == list(range(comparisons.n_answers))
    assert len(shapes) == 1


@pytest.mark.parametrize("head", ["lm", "scalar"])
def test_each_answer_is_run_once_and_nothing_is_padded_to_the_largest_k(comparisons, head):
    """Tokens in rows are those of each prompt, once, and of its answers, from K = 2 to 10."""
    assert set(np.diff(comparisons.answer_starts)) == set(range(2, 11))
    expected = (comparisons.prompt_lengths - (head == "lm")).sum() + comparisons.answer_lengths.sum()
    batches = list(
        eval_groups(comparisons, data_of(400), noun=Pairs, head=head, batch_size=8, sharding=on_mesh(stacked=False))
    )
    assert sum((np.asarray(batch.answers.tokens.segments_BT) > 0).sum() for batch, _ in batches) == expected
    assert sum((where.answer_N >= 0).sum() for _, where in batches) == comparisons.n_answers


def test_a_row_of_a_language_model(tmp_path):
    """The picture in `types.Answers`, spelled out."""
    store = write_sequences(tmp_path / "s", [Encoded([7, 8, 9], [([1, 2], [1, 1]), ([3], [1])], ranks=[0, 1])])
    [(batch, where)] = eval_groups(
        store, data_of(8), noun=Pairs, head="lm", batch_size=4, sharding=on_mesh(stacked=False)
    )
    tokens = batch.answers.tokens
    assert tokens.inputs_BT.tolist() == [[7, 8, 9, 1, 9, 0, 0, 0]]
    assert tokens.targets_BT.tolist() == [[8, 9, 1, 2, 3, 0, 0, 0]]
    assert tokens.weights_BT.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0]]
    assert tokens.segments_BT.tolist() == [[1, 1, 2, 2, 3, 0, 0, 0]]
    assert tokens.parents_BT.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0]]
    assert tokens.positions_BT.tolist() == [[0, 1, 2, 3, 2, 0, 0, 0]]
    assert (batch.answers.segment_BA.tolist(), batch.answers.end_BA.tolist()) == ([[2, 3]], [[3, 4]])
    assert (batch.better_P.tolist(), batch.worse_P.tolist(), batch.weight_P.tolist()) == ([0], [1], [1])
    assert where.answer_N.tolist() == [0, 1]


@pytest.mark.parametrize("length", [LONGEST, 400])
def test_pairs_of_a_ranking(comparisons, length):
    """All pairs without ties, 1 together for each prompt, with its margin and rating; slots of micro-batches."""
    for batch, where in eval_groups(
        comparisons, data_of(length), noun=Pairs, head="lm", batch_size=8, sharding=on_mesh(stacked=False)
    ):
        batch = jax.device_get(batch)
        better, worse = (where.answer_N[x[batch.weight_P > 0]] for x in (batch.better_P, batch.worse_P))
        expected, weights, margins, ratings = [], [], [], []
        for example in sorted(set(where.example_N.tolist()) - {-1}):
            answers = range(comparisons.answer_starts[example], comparisons.answer_starts[example + 1])
            pairs = [
                (i, j) for i, j in itertools.product(answers, answers) if comparisons.ranks[i] < comparisons.ranks[j]
            ]
            expected += pairs
            weights += [1 / len(pairs)] * len(pairs)
            margins += [np.nan_to_num(comparisons.margin[example])] * len(pairs)
            ratings += [comparisons.rating[example]] * len(pairs)
        assert list(zip(better.tolist(), worse.tolist(), strict=True)) == expected
        n, empty = len(expected), len(batch.weight_P) - len(expected)
        np.testing.assert_allclose(batch.weight_P, weights + [0] * empty, rtol=1e-6)
        np.testing.assert_array_equal(batch.margin_P, margins + [0] * empty)
        np.testing.assert_array_equal(batch.rating_P, ratings + [-1] * empty)
        assert (batch.weight_P.dtype, batch.rating_P.dtype) == (np.float32, np.int32)
        assert n > 0


def test_an_example_of_ties_only_makes_no_pair(tmp_path):
    tied = [Encoded([1], [([2], [1]), ([3], [1])], ranks=[1, 1]), Encoded([4], [([5], [1]), ([6], [1])], ranks=[0, 1])]
    store = write_sequences(tmp_path / "s", tied)
    [(batch, where)] = eval_groups(
        store, data_of(9), noun=Pairs, head="lm", batch_size=2, sharding=on_mesh(stacked=False)
    )
    assert batch.weight_P.tolist() == [1]
    assert where.answer_N[batch.better_P].tolist() == [2]
    assert sorted(where.answer_N[where.answer_N >= 0].tolist()) == [0, 1, 2, 3]


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


def test_two_processes_read_the_tokens_of_their_rows_alone(comparisons):
    packer, examples = GroupPacker(comparisons, 64, "lm", True), np.arange(16).reshape(2, 8)
    shapes = packer.shapes([examples], 8)
    whole, mine = packer.pack(examples, shapes), np.arange(shapes.rows) < shapes.rows // 2
    halves = [packer.pack(examples, shapes, half) for half in (mine, ~mine)]
    for name in ("inputs_BT", "targets_BT", "weights_BT", "segments_BT", "positions_BT", "parents_BT"):
        expected, one, other = (getattr(packed, name) for packed in (whole, *halves))
        assert not one[:, ~mine].any()
        assert not other[:, mine].any()
        np.testing.assert_array_equal(one + other, expected)
    assert whole.inputs_BT.any(axis=2)[:, ~mine].any()
    for half in halves:  # what is small is known everywhere: pairs number the slots of all rows
        np.testing.assert_array_equal(half.end_BA, whole.end_BA)


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


def test_mismatched_answers_are_those_of_another_prompt(tmp_path):
    """Also where several judgements of one prompt follow each other; cut at the end where they do not fit."""
    prompts = [[1], [1], [2], [3, 4, 5, 6], [3, 4, 5, 7], [3, 4, 5, 7]]
    store = write_sequences(
        tmp_path / "s", [Encoded(p, [([10 * i, 99], [1, 1])], label=1) for i, p in enumerate(prompts)]
    )
    pairing = mismatched(store, 5)
    assert [pairing.answer(i, 0)[0].tolist() for i in range(6)] == [[20, 99], [20, 99], [30, 99], [40], [0], [10]]
    assert [pairing.answer(i, 0)[1].tolist() for i in range(6)] == [[1, 1], [1, 1], [1, 1], [1], [1], [1]]
    assert pairing.answer_lengths.tolist() == [2, 2, 2, 1, 1, 1]
    assert [pairing.prompt(i).tolist() for i in range(6)] == prompts
    one = write_sequences(tmp_path / "one", [Encoded([1], [([i], [1])], label=1) for i in (2, 3)])
    with pytest.raises(UserError, match="all 2 judgement"):
        mismatched(one, 5)


def test_join_numbers_on(comparisons, judgements):
    both = join([comparisons, judgements])
    assert every_text(both) == every_text(comparisons) + every_text(judgements)
    np.testing.assert_array_equal(both.label, np.append(comparisons.label, judgements.label))


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


def test_first_fit_is_exact():
    sizes = np.random.default_rng(0).integers(0, 11, (30, 25))
    for batch, rows in zip(sizes, first_fit(sizes, 10), strict=True):
        room = [10] * 25
        for size, row in zip(batch, rows, strict=True):
            assert row == next(r for r in range(25) if room[r] >= size)
            room[row] -= size


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
