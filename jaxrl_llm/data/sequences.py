"""The sequence store: a directory of tokenised conversations or judged answers, with random access.

    meta.json      what it holds; written last, so its presence means finished
    ids.bin        int32, one stream: of each example its prompt, then its answers one after another
    weights.bin    float32, as many: what each token counts in training, 0 on those that nobody trains
    starts.npy     int64 [examples + answers + 1]: where each prompt and each answer starts in the stream, and its end
    ranks.npy ...  the columns, see `SequenceStore`
    invalid.jsonl  rows that were skipped, since they are of the wrong form: {"error", "row"}

A conversation is an example with an empty prompt and one answer: everything.
"""

import contextlib
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.data.cache import read_meta
from jaxrl_llm.errors import StorageFailed, UserError

VERSION = 1
META = "meta.json"
INVALID = "invalid.jsonl"
OF_ANSWERS = {"ranks": np.int16, "safe": np.int8}  # columns with an entry an answer; the others have one an example
OF_EXAMPLES = {
    "margin": np.float32,
    "rating": np.int8,
    "safety": np.bool_,
    "subset": np.int32,
    "label": np.int8,
    "cut": np.bool_,
}


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.  Answers are (ids, weights), equally long."""

    prompt: Sequence[int]
    answers: Sequence[tuple[Sequence[int], Sequence[float]]]
    ranks: Sequence[int] = (0,)  # of each answer, 0 is the best
    safe: Sequence[int] | None = None  # of each answer: 1 safe, 0 unsafe, -1 not said; None: not said of any
    margin: float = math.nan  # nan: not said
    rating: int = -1
    safety: bool = False
    subset: str | None = None
    label: int = -1  # of a judgement: 1 wanted, 0 unwanted
    cut: bool = False  # too long: tokens of it were left out
    left_out: int = 0  # answers: empty ones, and copies of others


class SequenceStore:
    """A finished store, read by example; safe to share between threads.  E examples with A answers together.

    Answers are numbered from 0 to A - 1 through all examples: answer a of example e is `answer_starts[e] + a`.

    Raises:
        UserError: the directory is no finished store, or a file of it is missing, damaged or of another size.
    """

    path: Path
    fingerprint: str
    n_examples: int
    n_answers: int
    subsets: tuple[str, ...]
    counts: dict[str, int]  # by name: rows read, left out for which reason, cut, tokens; see `build_sequences`
    prompt_lengths: np.ndarray  # int64 [E]
    answer_starts: np.ndarray  # int64 [E + 1]: number of the first answer of each example, and A
    answer_lengths: np.ndarray  # int64 [A]
    ranks: np.ndarray  # int16 [A], 0 is the best; equal ones are a tie
    safe: np.ndarray  # int8 [A]: 1 safe, 0 unsafe, -1 not said
    margin: np.ndarray  # float32 [E], by how much the better of two should lead; nan: not said
    rating: np.ndarray  # int8 [E]: 3 significantly better ... 0 negligibly; -1 not said
    safety: np.ndarray  # bool [E]: the prompt is about safety
    subset: np.ndarray  # int32 [E]: place in `subsets`; -1: in none
    label: np.ndarray  # int8 [E], of judgements: 1 wanted, 0 unwanted; else -1
    cut: np.ndarray  # bool [E]: tokens were left out, since there were too many

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta = read_meta(self.path / META, "sequence store", VERSION, self._mend())
        self.fingerprint, self.counts = meta["fingerprint"], meta["counts"]
        self.n_examples, self.n_answers = meta["n_examples"], meta["n_answers"]
        self.subsets = tuple(meta["subsets"])
        self.answer_starts = self._column("answer_starts", self.n_examples + 1)
        self._starts = self._column("starts", self.n_examples + self.n_answers + 1)
        self._ids = self._stream("ids", np.int32, int(self._starts[-1]))
        self._weights = self._stream("weights", np.float32, int(self._starts[-1]))
        lengths = np.diff(self._starts)
        prompts = self.answer_starts[:-1] + np.arange(self.n_examples)  # their places in `lengths`
        self.prompt_lengths, self.answer_lengths = lengths[prompts], np.delete(lengths, prompts)
        for name in OF_ANSWERS:
            setattr(self, name, self._column(name, self.n_answers))
        for name in OF_EXAMPLES:
            setattr(self, name, self._column(name, self.n_examples))

    def prompt(self, example: int) -> np.ndarray:
        """The prompt's ids, int32 [n]; none of a conversation."""
        return self._ids[self._span(int(self.answer_starts[example]) + example)]

    def answer(self, example: int, answer: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids, int32 [n], and weights, float32 [n], of the example's answer of a number from 0.

        Raises:
            IndexError: it has no such answer.
        """
        first, end = self.answer_starts[example : example + 2].tolist()
        if not 0 <= answer < end - first:
            raise IndexError(f"example {example} has no answer {answer}")
        span = self._span(first + example + 1 + answer)
        return self._ids[span], self._weights[span]

    @functools.cached_property
    def document_starts(self) -> np.ndarray:
        """int64 [E + 1]: where each example starts in the stream of all tokens, and its end."""
        return self._starts[np.append(self.answer_starts[:-1] + np.arange(self.n_examples), -1)]

    def _span(self, sequence: int) -> slice:
        return slice(int(self._starts[sequence]), int(self._starts[sequence + 1]))

    def _column(self, name: str, size: int) -> np.ndarray:
        return self._checked(f"{name}.npy", lambda file: np.load(file, mmap_mode="r"), size)

    def _stream(self, name: str, dtype: type, size: int) -> np.ndarray:
        return self._checked(
            f"{name}.bin", lambda file: np.memmap(file, dtype, mode="r") if size else np.zeros(0, dtype), size
        )

    def _checked(self, name: str, load: Any, size: int) -> np.ndarray:
        try:
            array = load(self.path / name).view(np.ndarray)  # slicing np.memmap itself costs microseconds
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{self.path / name}: missing or damaged: {error}{self._mend()}") from error
        if len(array) != size:
            raise UserError(f"{self.path / name}: has {len(array):,} entries instead of {size:,}{self._mend()}")
        return array

    def _mend(self) -> str:
        return f"\n  mend: rm -r {self.path}\n        and run `jaxrl-llm data build CONFIG`, or the same command again"


class SequenceWriter:
    """Writes a store, example by example; what an interrupted one left in the directory is overwritten.

    >>> with SequenceWriter(path) as writer:
    ...     writer.add(Encoded([1, 5], [([7, 2], [1.0, 1.0])]))
    ...     store = writer.finish(fingerprint, counts={})

    Raises:
        StorageFailed: a file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lengths: list[int] = []  # of all prompts and answers, in the order of the stream
        self.n_answers: list[int] = []  # of each example
        self.trained = 0
        self._columns: dict[str, list[Any]] = {name: [] for name in (*OF_ANSWERS, *OF_EXAMPLES)}
        self._subsets: dict[str, int] = {}

    def __enter__(self) -> "SequenceWriter":
        with _storage(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._ids, self._weights = ((self.path / f"{name}.bin").open("wb") for name in ("ids", "weights"))
        return self

    def __exit__(self, *error: object) -> None:
        self._ids.close()
        self._weights.close()

    def add(self, example: Encoded) -> None:
        """Append an example."""
        for ids, weights in ((example.prompt, [0.0] * len(example.prompt)), *example.answers):
            with _storage(self.path):
                self._ids.write(np.asarray(ids, np.int32).tobytes())
                self._weights.write(np.asarray(weights, np.float32).tobytes())
            self.lengths.append(len(ids))
            self.trained += int(np.count_nonzero(weights))
        self.n_answers.append(len(example.answers))
        subset = -1 if example.subset is None else self._subsets.setdefault(example.subset, len(self._subsets))
        self._columns["ranks"] += example.ranks
        self._columns["safe"] += [-1] * len(example.answers) if example.safe is None else example.safe
        for name in OF_EXAMPLES:
            self._columns[name].append(subset if name == "subset" else getattr(example, name))

    def finish(self, fingerprint: str, counts: Mapping[str, int]) -> SequenceStore:
        """Write the columns and then meta.json; `counts` get the tokens and the trained ones among them."""
        answers = np.append(0, np.cumsum(self.n_answers, dtype=np.int64))
        starts = np.append(0, np.cumsum(self.lengths, dtype=np.int64))
        meta = {
            "version": VERSION,
            "fingerprint": fingerprint,
            "n_examples": len(self.n_answers),
            "n_answers": int(answers[-1]),
            "subsets": list(self._subsets),
            "counts": {**counts, "tokens": int(starts[-1]), "trained": self.trained},
        }
        with _storage(self.path):
            self._ids.flush()
            self._weights.flush()
            np.save(self.path / "answer_starts.npy", answers)
            np.save(self.path / "starts.npy", starts)
            for name, dtype in (OF_ANSWERS | OF_EXAMPLES).items():
                np.save(self.path / f"{name}.npy", np.asarray(self._columns[name], dtype))
            draft = self.path / f"{META}.draft"
            draft.write_text(json.dumps(meta, indent=1) + "\n")
            draft.replace(self.path / META)
        return SequenceStore(self.path)


def write_sequences(path: Path, examples: Iterable[Encoded], fingerprint: str = "by hand") -> SequenceStore:
    """A store of some examples."""
    with SequenceWriter(path) as writer:
        for example in examples:
            writer.add(example)
        return writer.finish(fingerprint, {})


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{path}: cannot be written: {error.strerror}") from error
