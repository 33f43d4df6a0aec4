"""Builds sequence stores, once for each content of the input, and says what became of its rows."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxrl_llm.data.cache import cache_root, locked, progress_bar
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.config import ChatDataConfig, ExamplesConfig, PreferenceDataConfig
from jaxrl_llm.data.encode import Encoder, LeftOut, Refused, encode_all
from jaxrl_llm.data.examples import Example
from jaxrl_llm.data.mixture import named_corpora
from jaxrl_llm.data.pool import map_in_order, n_workers
from jaxrl_llm.data.read_examples import Want, inputs_of, read_examples
from jaxrl_llm.data.readers import Part
from jaxrl_llm.data.sequences import INVALID, META, VERSION, SequenceStore, SequenceWriter
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import Preempted, StorageFailed, UserError

ExampleData = ChatDataConfig | PreferenceDataConfig
CHUNK = 256  # examples that are tokenised at once
LARGE = 2 << 20  # bytes of input from which processes are worth their start
# Why an example is left out: in words, and what mends it; None where it was meant so.
REASONS: dict[str, tuple[str, str | None]] = {
    "empty": ("have an empty answer", "fill the answers, or take these rows out"),
    "untrained": ("have nothing left to train on", "a larger data.max_length, or rows with an answer that counts"),
    "identical": ("have answers that are the same", "a larger data.max_length where they were cut, or take these out"),
    "overlong": ("are too long", None),
    "tied": ("are ties only", None),
    "unwanted": ("are answers that are not wanted", None),
}


def build_sequences(
    corpus: ExamplesConfig,
    want: Want,
    part: Part,
    data: ExampleData,
    tokenizer: Tokenizer,
    progress: bool = True,
) -> SequenceStore:
    """The store of one part of a corpus: the one in `data.cache_dir` if it is finished, else built there.

    It is named by its fingerprint, and holds the same bytes for any number of `data.workers`.  Its `counts` are:
    examples `read`; `invalid` ones, of the wrong form; those left out by reason (`REASONS`); `cut` ones; answers that
    were `left_out` of other examples; all `tokens`, and the `trained` ones of them.

    Args:
        corpus: where the rows are, and how they are written.
        want: what to make of them.
        part: "train", or "holdout", the share kept from training.
        data: the template, the longest example, what is trained on, and how much may be left out.
        tokenizer: that makes tokens of them.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        UserError: a row is of the wrong form, too many are, or too many leave nothing to train on.
        Preempted: Ctrl-C.
        StorageFailed: a write failed.
    """
    template = find_template(tokenizer, data.template)
    encoder = Encoder(tokenizer, template, _max_length(data), data.overlong, **_of_chat(data))
    fingerprint = _fingerprint(corpus, want, part, data, encoder)
    path = cache_root(data.cache_dir) / fingerprint
    if not (path / META).exists():
        with locked(path):
            if not (path / META).exists():  # another process may have built it while this one waited
                _build(path, fingerprint, corpus, want, part, data, encoder, progress)
    store = SequenceStore(path)
    _check(store, corpus, data)
    return store


def open_sequences(
    data: ExampleData,
    want: Want,
    part: Part,
    tokenizer: Tokenizer,
    progress: bool = True,
) -> dict[str, SequenceStore]:
    """The training part of every corpus of a config by name, or the part kept for evaluation of those that keep one."""
    return {
        name: build_sequences(corpus, want, part, data, tokenizer, progress)
        for name, corpus in named_corpora(data).items()
        if part == "train" or corpus.holdout or corpus.holdout_rows
    }


def describe(store: SequenceStore) -> str:
    """What became of the rows, in a line."""
    counts = store.counts
    parts = [f"{store.n_examples:,} of {counts['read']:,} examples", *losses(counts)]
    parts += [f"{counts['cut']:,} cut to fit"] if counts["cut"] else []
    share = counts["trained"] / max(counts["tokens"], 1)
    return ", ".join([*parts, f"{counts['tokens']:,} tokens, {share:.1%} trained"])


def losses(counts: Mapping[str, int]) -> list[str]:
    """What was left out and why, a phrase each, from the `counts` of a store."""
    words = {"invalid": "of the wrong form"} | {reason: words for reason, (words, _) in REASONS.items()}
    words["left_out"] = "further answer(s) empty or repeated"
    return [f"{counts[reason]:,} {said}" for reason, said in words.items() if counts.get(reason)]


def quarantine(stores: Iterable[SequenceStore], file: Path) -> int:
    """Add the rows of the wrong form that were skipped on the way into the stores, `{"error", "row"}` a line.

    Those that are there already are not added again: parts of a corpus share them, and a run may start again.
    Returns how many are there now; where there is none, no file is made.  Raises StorageFailed.
    """
    texts = [(store.path / INVALID).read_text(encoding="utf-8") for store in stores if store.counts.get("invalid")]
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        lines = dict.fromkeys(line for text in [before, *texts] for line in text.split("\n") if line)
        if lines:
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"{file}: cannot be written: {error.strerror}") from error
    return len(lines)


def _build(
    path: Path,
    fingerprint: str,
    corpus: ExamplesConfig,
    want: Want,
    part: Part,
    data: ExampleData,
    encoder: Encoder,
    progress: bool,
) -> None:
    size = sum(item.size for item in inputs_of(corpus))
    counts = Counter(dict.fromkeys(("read", "invalid", *REASONS, "left_out", "cut"), 0))
    strict = data.invalid == "stop"
    title = f"tokenising ({part})"
    try:
        with (
            SequenceWriter(path) as writer,
            _open(path / INVALID) as invalid,
            progress_bar(title, size, progress) as bar,
        ):

            def reject(error: object, row: object) -> None:
                counts.update(["read", "invalid"])
                invalid.write(json.dumps({"error": str(error), "row": row}, default=str) + "\n")

            examples = read_examples(corpus, want, part, None if strict else reject, bar)
            encode = functools.partial(encode_all, encoder, strict)
            chunks = map_in_order(encode, _chunks(examples), n_workers(data.workers, size, LARGE))
            for result in itertools.chain.from_iterable(chunks):
                if isinstance(result, Refused):
                    reject(result.error, result.row)
                    continue
                counts["read"] += 1
                if isinstance(result, LeftOut):
                    counts[result.reason] += 1
                    continue
                counts.update({"cut": int(result.cut), "left_out": result.left_out})
                writer.add(result)
            invalid.flush()
            writer.finish(fingerprint, counts)
    except KeyboardInterrupt:
        raise Preempted(f"interrupted while tokenising {corpus.path}\n  the same command does it anew") from None


def _fingerprint(corpus: ExamplesConfig, want: Want, part: Part, data: ExampleData, encoder: Encoder) -> str:
    """The sha256 of all that the store depends on: content (not names) of the input, how it is read and tokenised."""
    with ThreadPoolExecutor() as threads:
        identities = list(threads.map(lambda item: item.identity(), inputs_of(corpus)))
    keys = {
        "version": VERSION,
        "inputs": identities,
        "corpus": {key: value for key, value in vars(corpus).items() if key in _READING},
        "want": [want, part, data.invalid],
        "tokenizer": encoder.tokenizer.fingerprint,
        "template": [encoder.template.source, encoder.template.bos_token, encoder.template.eos_token],
        "length": [encoder.max_length, encoder.overlong],
        "trained": [encoder.train_on, encoder.gatt],
    }
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


_READING = {field.name for field in dataclasses.fields(ExamplesConfig)} - {"path", "weight"}


def _max_length(data: ExampleData) -> int:
    if data.max_length is not None and data.max_length > data.length:
        raise UserError(
            f"data.max_length={data.max_length} is more than a row of data.length={data.length} tokens holds\n"
            "  mend: a larger data.length, or a smaller data.max_length"
        )
    return data.max_length or data.length


def _of_chat(data: ExampleData) -> dict[str, Any]:
    return {"train_on": data.train_on, "gatt": data.gatt} if isinstance(data, ChatDataConfig) else {}


def _chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while chunk := list(itertools.islice(examples, CHUNK)):
        yield chunk


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    try:
        with file.open("w", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        raise StorageFailed(f"{file}: cannot be written: {error.strerror}") from error


def _check(store: SequenceStore, corpus: ExamplesConfig, data: ExampleData) -> None:
    """A UserError where more was left out than the config allows, or everything."""
    counts, read = store.counts, store.counts["read"]
    if counts["invalid"] > data.max_invalid * read:
        first = json.loads((store.path / INVALID).read_text(encoding="utf-8").partition("\n")[0])["error"]
        first = first.partition("\n  mend:")[0]
        raise UserError(
            f"{corpus.path}: {counts['invalid']:,} of {read:,} examples are of the wrong form, more than "
            f"data.max_invalid={data.max_invalid:g}; the first:\n  {first}\n"
            "  mend: correct them, name data.format and data.columns, or set a larger data.max_invalid"
        )
    found = {reason: counts[reason] for reason, (_, mend) in REASONS.items() if mend and counts[reason]}
    if sum(found.values()) > data.max_dropped * read:
        which = ", ".join(f"{n:,} {REASONS[reason][0]}" for reason, n in found.items())
        mends = "; ".join(str(REASONS[reason][1]) for reason in found)
        raise UserError(
            f"{corpus.path}: of {read:,} examples {which} (data.max_length={_max_length(data)}), more than "
            f"data.max_dropped={data.max_dropped:g}\n  mend: {mends}; or a larger data.max_dropped"
        )
    if store.n_examples == 0:
        raise UserError(f"{corpus.path}: nothing is left to train on: {describe(store)}\n  mend: other data")
