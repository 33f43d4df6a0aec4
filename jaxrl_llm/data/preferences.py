"""Batches of Pairs and Labelled on the mesh: `preference_source` for training, `eval_groups` for evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.data.config import PreferenceDataConfig
from jaxrl_llm.data.group_packing import GroupPacker, PackedAnswers
from jaxrl_llm.data.groups import GroupStore, join, mismatched
from jaxrl_llm.data.mixture import order_fingerprint, weights_of
from jaxrl_llm.data.rows import training_rows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.source import DataSource, row_seeds
from jaxrl_llm.parallel.mesh import BATCH_AXES, on_mesh
from jaxrl_llm.types import Answers, Head, Labelled, Pairs, Tokens

Noun = Pairs | Labelled


class Where(NamedTuple):
    """What the N = B·A slots of `Answers` hold."""

    example_N: np.ndarray  # int64 number of the example in the store; -1: the slot is empty
    answer_N: np.ndarray  # int64 number of the answer in the store; -1: the slot is empty


def preference_source(
    stores: Mapping[str, SequenceStore],
    data: PreferenceDataConfig,
    *,
    noun: type,
    head: Head,
    steps: int,
    seed: int,
    batch_size: int,
    micro_batches: int,
    sharding: NamedSharding,
    references: Mapping[str, np.ndarray] | None = None,
    mismatch: bool = False,
    dropout_seed: int | None = None,
) -> DataSource:
    """The source of Pairs or Labelled, arrays [M, R, ...], of examples that are shuffled and mixed by their weights.

    Step n takes examples n * batch_size ... of that order; example j of them is in micro-batch j // b, with
    b = batch_size / micro_batches.  R, slots and pairs are the most that any step needs.

    Args:
        stores: corpora by name, of comparisons for Pairs, of judgements for Labelled.
        data: the length of rows, whether prompts are shared, the corpora's weights.
        noun: Pairs or Labelled.
        head: what the rows are laid out for, see `types.Answers`.
        steps: batches there are; to ask for another one is an IndexError.
        seed: decides the order.
        batch_size: prompts a step, over all devices.
        micro_batches: M.
        sharding: of the arrays [M, R, T].
        references: corpus -> summed log-probabilities of the store's answers under the reference, float32 [A], in
            nats; fills `ref_BA`.  "NAME/mismatched" are those of the `mismatched_answers`.
        mismatch: fill `Labelled.mismatched`.
        dropout_seed: decides the rows' seeds, with the step; None: there is no dropout.

    Raises:
        UserError: a corpus has fewer examples than a batch takes of it, or nothing to mismatch.
    """
    names = sorted(stores)
    sizes = {name: stores[name].n_examples for name in names}
    contents = {name: f"it has {size:,} example(s)" for name, size in sizes.items()}
    weights = weights_of(data, sizes, contents, batch_size)
    firsts = np.cumsum([0, *sizes.values()]).tolist()
    numbers = {name: (range(a, b), weights[name]) for name, a, b in zip(names, firsts, firsts[1:], strict=False)}
    order = training_rows(numbers, seed, data.shuffle)
    examples = np.fromiter((order[i] for i in range(steps * batch_size)), np.int64, steps * batch_size)
    examples = examples.reshape(steps, micro_batches, -1)

    def reference(suffix: str) -> np.ndarray | None:
        return None if references is None else np.concatenate([references[name + suffix] for name in names])

    def packing(groups: Sequence[GroupStore], suffix: str = "") -> _Packing:
        batches = [examples.reshape(steps * micro_batches, -1)]
        return _Packing(join(groups), data, noun, head, batches, sharding, reference(suffix), stacked=True)

    answers = packing([stores[name] for name in names])
    others = None
    if mismatch:
        others = packing([mismatched_answers(stores[name], data) for name in names], "/mismatched")

    def make(step: int) -> Noun:
        dropout = None if dropout_seed is None else (dropout_seed, step)
        return _make(noun, examples[step], answers, others, dropout)[0]

    return DataSource(
        make,
        tokens_per_step=micro_batches * answers.shapes.rows * data.length,
        steps_per_epoch=sum(sizes.values()) / batch_size,
        prefetch=data.prefetch,
        fingerprint=order_fingerprint(
            stores, weights, noun=noun.__name__, shuffle=data.shuffle, seed=seed, batch_size=batch_size
        ),
    )


def eval_groups(
    store: GroupStore,
    data: PreferenceDataConfig,
    *,
    noun: type,
    head: Head,
    batch_size: int,
    sharding: NamedSharding,
    max_rows: int | None = None,
    examples: np.ndarray | None = None,
    references: np.ndarray | None = None,
    mismatch: bool = False,
    mismatched_references: np.ndarray | None = None,
) -> Iterator[tuple[Any, Where]]:
    """All examples of a store in order, or the first `max_rows`, each once, as batches with arrays [R, ...].

    Args:
        store: of comparisons or judgements; or `mismatched_answers` of one, to score these under a reference.
        data: the length of rows, and whether prompts are shared.
        noun: Pairs or Labelled.
        head: what the rows are laid out for.
        batch_size: examples of a batch; the last has what is left.
        sharding: of the arrays [R, T].
        max_rows: examples, None: all.
        examples: int64 numbers of those that are wanted; None: all.
        references: summed log-probabilities of the store's answers under the reference, float32 [A], nats.
        mismatch: fill `Labelled.mismatched`.
        mismatched_references: as `references`, of the `mismatched_answers`.
    """
    examples = (np.arange(len(store.prompt_lengths)) if examples is None else examples)[:max_rows]
    whole = len(examples) // batch_size * batch_size
    batches = [examples[:whole].reshape(-1, batch_size), examples[None, whole:]]
    batches = [batch for batch in batches if batch.size]
    answers = _Packing(store, data, noun, head, batches, sharding, references, stacked=False)
    others = None
    if mismatch:
        others = _Packing(
            mismatched_answers(store, data), data, noun, head, batches, sharding, mismatched_references, stacked=False
        )
    for batch in (row[None] for rows in batches for row in rows):
        made, packed = _make(noun, batch, answers, others, None)
        example_N = packed.in_slots(batch.ravel()[packed.owner_N], -1).ravel()
        yield made, Where(example_N, packed.in_slots(packed.answer_N, -1).ravel())


def mismatched_answers(store: GroupStore, data: PreferenceDataConfig) -> GroupStore:
    """What `Labelled.mismatched` holds of a store: each prompt with an answer to another; see `groups.mismatched`."""
    return mismatched(store, data.max_length or data.length)


class _Packing:
    """The rows of one store's groups on the mesh: [M, R, ...] if they are `stacked`, else [R, ...]."""

    def __init__(
        self,
        store: GroupStore,
        data: PreferenceDataConfig,
        noun: type,
        head: Head,
        batches: Sequence[np.ndarray],
        sharding: NamedSharding,
        reference: np.ndarray | None,
        *,
        stacked: bool,
    ) -> None:
        share_prompt = data.share_prompt and noun is Pairs  # a judgement has its prompt to itself
        self.store, self.head, self.reference = store, head, reference
        self.packer = GroupPacker(store, data.length, head, share_prompt)
        self.shapes = self.packer.shapes(batches, int(np.prod([sharding.mesh.shape[axis] for axis in BATCH_AXES])))
        self._sharding, self._stacked = sharding, stacked
        shape = (1, self.shapes.rows, data.length)[not self._stacked :]
        self._mine = np.zeros(self.shapes.rows, bool)
        for index in sharding.addressable_devices_indices_map(shape).values():
            assert index is not None
            self._mine[index[-2]] = True

    def put(self, array: np.ndarray) -> Any:
        """[M, R, ...] on the mesh, rows split over the devices."""
        return on_mesh(array if self._stacked else array[0], self._sharding)

    def put_whole(self, array: np.ndarray) -> Any:
        """[M, ...] on the mesh, the same on all devices."""
        return on_mesh(array if self._stacked else array[0], NamedSharding(self._sharding.mesh, PartitionSpec()))

    def answers(self, examples: np.ndarray, dropout: tuple[int, int] | None) -> tuple[Answers, PackedAnswers]:
        """Examples, int64 [M, b]; `dropout` is its seed and the step."""
        packed, put = self.packer.pack(examples, self.shapes, self._mine), self.put
        seeds = None
        if dropout is not None:
            seeds = put(np.stack([row_seeds(self.shapes.rows, *dropout, micro) for micro in range(len(examples))]))
        tokens = Tokens(
            inputs_BT=put(packed.inputs_BT),
            targets_BT=put(packed.targets_BT),
            weights_BT=put(packed.weights_BT),
            segments_BT=put(packed.segments_BT),
            positions_BT=put(packed.positions_BT),
            parents_BT=None if packed.parents_BT is None else put(packed.parents_BT),
            seeds_B=seeds,
        )
        safe = ref = None
        if self.head != "lm":
            safe = put(packed.in_slots(self.store.safe[packed.answer_N].astype(np.int32), -1))
        if self.reference is not None:
            ref = put(packed.in_slots(self.reference[packed.answer_N].astype(np.float32), 0))
        return Answers(tokens, put(packed.segment_BA), put(packed.end_BA), safe, ref), packed


def _make(
    noun: type, examples: np.ndarray, rows: _Packing, others: _Packing | None, dropout: tuple[int, int] | None
) -> tuple[Noun, PackedAnswers]:
    answers, packed = rows.answers(examples, dropout)
    if noun is Pairs:
        pairs = rows.packer.pairs(packed, examples, rows.shapes)
        return Pairs(answers, *(rows.put_whole(column) for column in pairs)), packed
    label = rows.store.label[examples.ravel()[packed.owner_N]].astype(np.int32)
    mismatches = None if others is None else others.answers(examples, None)[0]  # read without a gradient, or dropout
    return Labelled(answers, rows.put(packed.in_slots(label, -1)), mismatches), packed
