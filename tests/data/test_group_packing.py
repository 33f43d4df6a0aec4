"""Groups of answers in rows, read back by an oracle."""

import itertools

import jax
import numpy as np
import pytest

from jaxrl_llm.data.group_packing import GroupPacker, first_fit
from jaxrl_llm.data.groups import join, mismatched
from jaxrl_llm.data.preferences import eval_groups
from jaxrl_llm.data.sequences import Encoded, write_sequences
from jaxrl_llm.errors import UserError
from jaxrl_llm.types import Pairs
from tests.data.grouped import (
    LONGEST,
    data_of,
    every_text,
    on_mesh,
    read_slots,
)


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


def test_first_fit_is_exact():
    sizes = np.random.default_rng(0).integers(0, 11, (30, 25))
    for batch, rows in zip(sizes, first_fit(sizes, 10), strict=True):
        room = [10] * 25
        for size, row in zip(batch, rows, strict=True):
            assert row == next(r for r in range(25) if room[r] >= size)
            room[row] -= size
