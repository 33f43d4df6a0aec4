"""The examples of a corpus: rows recognised by their columns, read, and made into what an algorithm wants."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Comparison, Conversation, Example, Judgement, Unwanted
from jaxrl_llm.data.inputs import Input, OnRead, Part, find_inputs, form_by_name, ignore, training_share
from jaxrl_llm.data.records import Record, parse_row, read_records
from jaxrl_llm.data.row_formats import COLUMNS, FORMATS, RowFormat, recognise
from jaxrl_llm.data.row_parts import after_prompt
from jaxrl_llm.errors import UserError

Want = Literal["conversation", "comparison", "judgement"]
Reject = Callable[[UserError, Any], None]  # the error, and the row: a dict, or text that is no JSON object
Row = dict[str, Any]

ENDINGS = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json": "json",
    ".json.gz": "json",
    ".parquet": "parquet",
    ".array_record": "array_record",
}
MEND = "correct it; or, in training, data.invalid=skip leaves such rows out, counted and kept in a file"
MIXED = {"pairs", "ranked"}  # one input may have both: `label` writes pairs, and rankings of more or of ties
KINDS: dict[type[Example], str] = {  # what each example is for
    Conversation: "conversations, for algo.kind sft",
    Comparison: "comparisons, for algo.kind reward, dpo, simpo, orpo (and, best and worst, for kto and sft)",
    Judgement: "answers judged alone, for algo.kind kto or reward (and, those that are wanted, for sft)",
}


class _Recognised(NamedTuple):
    """How an input is written."""

    format: RowFormat
    row: Row  # that tells it, by our names of columns


def inputs_of(corpus: ExamplesConfig) -> list[Input]:
    """The files of a corpus, or its TFDS split.

    Raises:
        UserError: one is missing, empty, or of a form that its name does not tell.
    """
    mend = "rename it, or set the path to a glob without this file"
    return find_inputs(corpus.path, lambda file: form_by_name(file, ENDINGS, mend), corpus.split, tfds=False)


def recognised(corpus: ExamplesConfig) -> str:
    """For the console: the format of each input, which columns are read, and which are not.

    >>> recognised(ExamplesConfig(path="a.jsonl", columns={"prompt": "question"}))
    'pairs (prompt=question, chosen, rejected; ignored: id)'

    Raises:
        UserError: there is none, or an input is in no known format.
    """
    found = {}
    for item in inputs_of(corpus):
        layout = _recognise(item, corpus)
        read = layout.format.columns(layout.row)
        named = [f"{name}={corpus.columns[name]}" if name in corpus.columns else name for name in read]
        ignored = [name for name in layout.row if name not in read]
        rest = f"; ignored: {', '.join(ignored)}" if ignored else ""
        found[item.name] = f"{layout.format.name} ({', '.join(named)}{rest})"
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{Path(name).name}: {line}" for name, line in found.items())


def read_examples(
    corpus: ExamplesConfig, want: Want, part: Part = "train", reject: Reject | None = None, on_read: OnRead = ignore
) -> Iterator[Example]:
    """The examples of one part of a corpus, in order, those with nothing to learn (see `row_formats`) among them.

    Of each input, "holdout" is its last `holdout` share of rows, or its last `holdout_rows`; "train" is the rest.
    An input is in the format of its first row, as all its rows must be; but pairs and rankings may be mixed.

    Args:
        corpus: where they come from.
        want: "conversation" is also the best answer of a comparison, and an answer that is wanted (those that are not
            are passed over); "judgement" also the best (wanted) and the worst (unwanted) of a comparison.
        part: which.
        reject: is told of each row of the wrong form, which is passed over; None: the first one is an error.
        on_read: is told of each piece of an input that was read.

    Raises:
        UserError: at the first row of the wrong form; or, whatever `reject` is: an input is missing, damaged, in no
            known format, in one that does not give what is wanted, or has no rows in this part.
    """
    for item in inputs_of(corpus):
        layout = _recognise(item, corpus)
        if not _gives(layout.format.gives, want):
            raise UserError(
                f"{item.name}: rows of the format {layout.format.name} are {KINDS[layout.format.gives]}; "
                f"a {want} is asked for\n  mend: another algo.kind, or other data"
            )
        for record in _records(item, corpus, part, on_read):
            try:
                examples = _converted(_read(record, layout, corpus), want)
            except UserError as error:
                if reject is None:
                    raise
                value = record.value
                reject(error, value.decode(errors="replace") if isinstance(value, bytes) else value)
            else:
                yield from examples


def _recognise(item: Input, corpus: ExamplesConfig) -> _Recognised:
    """From the first row that is one at all."""
    problem: UserError | None = None
    for record in read_records(item):
        try:
            row = parse_row(record)
        except UserError as error:
            problem = problem or error
            continue
        _check_columns(row, corpus, record.origin)
        row = _by_our_names(row, corpus)
        form = recognise(row) if corpus.format == "auto" else FORMATS[corpus.format]
        if form is None:
            known = "".join(f"\n    {each.name}: {_needs(each)}" for each in FORMATS.values())
            raise UserError(
                f"{record.origin}: no known format has the columns {', '.join(row) or '(none)'}\n"
                "  mend: set data.columns to the file's names of ours, as {prompt: question, completion: answer};\n"
                f"  known are{known}"
            )
        return _Recognised(form, row)
    raise problem or UserError(f"{item.name}: there is no row in it\n  mend: fill it, or leave it out of data.path")


def _records(item: Input, corpus: ExamplesConfig, part: Part, on_read: OnRead) -> Iterator[Record]:
    """The rows of one part of an input."""
    rows, share = corpus.holdout_rows, corpus.holdout
    if rows and share:
        raise UserError("both holdout and holdout_rows are set\n  mend: leave out one of them")
    if part == "train" and not rows and not share:
        return read_records(item, on_read)
    size = sum(1 for _ in read_records(item))
    cut = size - rows if rows else training_share(size, share)
    if not 0 < cut < size:
        said = f"holdout_rows={rows}" if rows else f"holdout={share}"
        raise UserError(
            f"{item.name}: {said} of {size} row(s) leaves no row on one side\n"
            "  mend: set another holdout, or leave it out and evaluate on other data"
        )
    return itertools.islice(read_records(item, on_read), *((cut,) if part == "train" else (cut, None)))


def _read(record: Record, layout: _Recognised, corpus: ExamplesConfig) -> Example:
    """The example of a row.  Raises UserError: the row is of the wrong form."""
    row = _by_our_names(parse_row(record), corpus)
    if corpus.safety:
        row.setdefault("safety", True)
    form, auto = layout.format, corpus.format == "auto"
    own = recognise(row) if auto else form
    if own and {form.name, own.name} <= MIXED:
        form = own
    try:
        example = form.read(row, record.origin)
        if own is not form and own is not None:
            raise UserError(f"found what tells another one, {own.name} ({', '.join(own.columns(row))})")
    except UserError as error:
        told = "told from the first row; data.format=NAME sets one" if auto else "as data.format says"
        raise UserError(f"{record.origin}: a row of the format {form.name} ({told}): {error}\n  mend: {MEND}") from None
    return example


def _check_columns(row: Row, corpus: ExamplesConfig, origin: str) -> None:
    """Raises UserError unless data.columns maps known names to columns of the first row, each once."""
    for ours, theirs in corpus.columns.items():
        if ours not in COLUMNS:
            raise UserError(f"data.columns: no format has a column {ours!r}\n  mend: one of {', '.join(COLUMNS)}")
        if theirs not in row:
            raise UserError(
                f"{origin}: no column {theirs!r}, which data.columns gives for {ours!r}\n"
                f"  mend: one of those that are there: {', '.join(row)}"
            )
    if len(set(corpus.columns.values())) < len(corpus.columns):
        raise UserError(f"data.columns gives a column twice: {corpus.columns}\n  mend: a column has one name of ours")


def _by_our_names(row: Row, corpus: ExamplesConfig) -> Row:
    """The columns that are not null, by our names; one that bears a name of ours but is mapped away is left out."""
    ours = {theirs: ours for ours, theirs in corpus.columns.items()}
    kept = (name for name, value in row.items() if value is not None and (name in ours or name not in corpus.columns))
    return {ours.get(name, name): row[name] for name in kept}


def _needs(form: RowFormat) -> str:
    return ", ".join(" or ".join(names[0] for names in slot) for slot in form.needs)


def _gives(kind: type[Example], want: Want) -> bool:
    return want == "conversation" or kind is Comparison or (kind is Judgement and want == "judgement")


def _converted(example: Example, want: Want) -> tuple[Example, ...]:
    if want == "conversation":
        return _conversations(example)
    if want == "judgement" and isinstance(example, Comparison):
        best, worst = min(example.ranks), max(example.ranks)
        if best == worst:
            raise UserError(f"{example.origin}: all answers tie, so that none is wanted or unwanted\n  mend: {MEND}")
        wanted, unwanted = (example.answers[example.ranks.index(rank)] for rank in (best, worst))
        common: dict[str, Any] = {"safety": example.safety, "subset": example.subset}
        return (
            Judgement(example.prompt, wanted, True, example.origin, beside=unwanted, **common),
            Judgement(example.prompt, unwanted, False, example.origin, beside=wanted, **common),
        )
    return (example,)


def _conversations(example: Example) -> tuple[Example, ...]:
    if isinstance(example, Conversation | Unwanted):
        return (example,)
    if isinstance(example, Comparison):
        answer = example.answers[example.ranks.index(0)]
    elif example.label:
        answer = example.answer
    else:
        return (Unwanted(example.origin),)
    return (after_prompt(example.prompt, answer, example.origin),)
