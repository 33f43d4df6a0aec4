"""The documents of a corpus: which inputs it is, and which part of them is held out."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.formats import Document, documents_of
from jaxrl_llm.data.inputs import Input, OnRead, Part, find_inputs, form_by_name, ignore, training_share
from jaxrl_llm.errors import UserError

ENDINGS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".array_record": "array_record",
}


def inputs(config: CorpusConfig) -> list[Input]:
    """The files of a corpus, or its TFDS split.

    Raises:
        UserError: one is missing, empty, or of a format that its name does not tell.
    """
    mend = "set `format` to text, jsonl, parquet or array_record, or set the path to a glob without this file"

    def form(file: Path) -> str:
        return form_by_name(file, ENDINGS, mend) if config.format == "auto" else config.format

    return find_inputs(config.path, form, config.split, config.format == "tfds")


def read_documents(config: CorpusConfig, part: Part = "train", on_read: OnRead = ignore) -> Iterator[Document]:
    """The documents of a corpus in order, but for those of white space alone.

    Of each input, "holdout" is the last `holdout` share of its documents, of its characters where it is one document;
    "train" is the rest.

    Raises:
        UserError: a file is missing, empty, undecodable, not of its format or has no such field; or a share is empty.
    """
    for item in inputs(config):
        documents = functools.partial(_documents, item, config)
        if part == "train" and not config.holdout:
            yield from documents(on_read)
        else:
            yield from _split_holdout(documents, item.name, config.holdout, part, on_read)


def _documents(item: Input, config: CorpusConfig, on_read: OnRead) -> Iterator[Document]:
    return (document for document in documents_of(item, config, on_read) if document.text.strip())


def _split_holdout(
    documents: Callable[[OnRead], Iterator[Document]], name: str, holdout: float, part: Part, on_read: OnRead
) -> Iterator[Document]:
    """One part of an input; `documents` reads it, twice: they are counted first."""
    count = sum(1 for _ in documents(ignore))
    if count == 1:
        [document] = documents(on_read)
        size, unit = len(document.text), "character"
    else:
        size, unit = count, "document"
    cut = training_share(size, holdout)
    if not 0 < cut < size:
        raise UserError(
            f"{name}: holdout={holdout} of {size} {unit}(s) leaves no {unit} on one side\n"
            "  mend: set another holdout, or leave it out and evaluate on other data"
        )
    if count == 1:
        yield document._replace(text=document.text[:cut] if part == "train" else document.text[cut:])
    else:
        yield from itertools.islice(documents(on_read), *((cut,) if part == "train" else (cut, None)))
