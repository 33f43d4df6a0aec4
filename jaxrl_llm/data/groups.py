"""Groups: a prompt with its answers.  What is packed into rows, from one store, from several, or mismatched for KTO."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.errors import UserError


@dataclass(frozen=True)
class Groups:
    """Put together from stores, and read as a `SequenceStore` is: E examples with A answers together."""

    prompt: Callable[[int], np.ndarray]  # of an example: int32 [n]
    answer: Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # of an example, from 0: ids and weights, [n]
    answer_starts: np.ndarray  # int64 [E + 1]
    prompt_lengths: np.ndarray  # int64 [E]
    margin: np.ndarray  # float32 [E]; nan: not said
    rating: np.ndarray  # int8 [E]; -1: not said
    label: np.ndarray  # int8 [E]; -1: not said
    answer_lengths: np.ndarray  # int64 [A]
    ranks: np.ndarray  # int16 [A]
    safe: np.ndarray  # int8 [A]; -1: not said


GroupStore = SequenceStore | Groups
COLUMNS = tuple(field.name for field in fields(Groups))[3:]


def join(stores: Sequence[GroupStore]) -> Groups:
    """Several stores as one: examples and answers are numbered on from store to store."""
    firsts = np.cumsum([0, *(len(store.prompt_lengths) for store in stores)]).tolist()

    def find(example: int) -> tuple[GroupStore, int]:
        nth = bisect_right(firsts, example) - 1
        return stores[nth], example - firsts[nth]

    def prompt(example: int) -> np.ndarray:
        store, example = find(example)
        return store.prompt(example)

    def answer(example: int, answer: int) -> tuple[np.ndarray, np.ndarray]:
        store, example = find(example)
        return store.answer(example, answer)

    sizes = np.concatenate([np.diff(store.answer_starts) for store in stores])
    columns = {name: np.concatenate([getattr(store, name) for store in stores]) for name in COLUMNS}
    return Groups(prompt, answer, np.append(0, np.cumsum(sizes)), **columns)


def mismatched(store: GroupStore, longest: int) -> Groups:
    """Each prompt of a store of judgements with an answer to the next other prompt, the last with one to the first.

    Judgements of one prompt stand in a row where they were a comparison: the n-th of them gets the next prompt's n-th
    (cyclic), so that wanted and unwanted answers come as often as in the data.  The answer is cut at its end where it
    and the prompt are longer than `longest` tokens together.

    Raises:
        UserError: all prompts are the same.
    """
    partner = _of_next_prompt(store)
    lengths = np.minimum(store.answer_lengths[partner], longest - store.prompt_lengths)

    def answer(example: int, answer: int) -> tuple[np.ndarray, np.ndarray]:
        ids, weights = store.answer(int(partner[example]), answer)
        return ids[: lengths[example]], weights[: lengths[example]]

    columns = {name: getattr(store, name) for name in COLUMNS}
    columns |= {"answer_lengths": lengths, "safe": store.safe[partner]}
    return Groups(store.prompt, answer, store.answer_starts, **columns)


def _of_next_prompt(store: GroupStore) -> np.ndarray:
    """int64 [E]: of each example, the one whose answer it is shown with."""
    n = len(store.prompt_lengths)
    new = np.ones(n, bool)
    for i in (np.flatnonzero(np.diff(store.prompt_lengths) == 0) + 1).tolist():
        new[i] = not np.array_equal(store.prompt(i - 1), store.prompt(i))
    firsts = np.flatnonzero(new)
    if len(firsts) < 2:
        raise UserError(
            f"all {n} judgement(s) of a corpus are of the same prompt, so that no answer is to another one, which "
            "algo.kind=kto needs\n  mend: data with several prompts"
        )
    sizes = np.diff(firsts, append=n)
    run = np.cumsum(new) - 1
    following = (run + 1) % len(firsts)
    return firsts[following] + (np.arange(n) - firsts[run]) % sizes[following]


def spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ...: int64 [sum of counts]."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - before, counts)


def sums_before(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Of each element, the sum of the `values` before it in its group."""
    order = np.argsort(group, kind="stable")
    total, ordered = np.cumsum(values[order]) - values[order], group[order]
    result = np.empty_like(total)
    result[order] = total - total[np.searchsorted(ordered, ordered)]
    return result


def count_pairs(store: GroupStore) -> np.ndarray:
    """int64 [E]: pairs of each example's answers of which one is better."""
    sizes = np.diff(store.answer_starts)
    example = np.repeat(np.arange(len(sizes)), sizes)
    _, first, size = np.unique(example * 2**16 + store.ranks, return_index=True, return_counts=True)
    tied = np.bincount(example[first], size * (size - 1) // 2, len(sizes)).astype(np.int64)
    return sizes * (sizes - 1) // 2 - tied
