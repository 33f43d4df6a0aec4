"""The documents of a corpus: which files it is, and which part of them is held out."""

import functools
import glob
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.formats import READERS, Document, OnRead, read_tfds
from jaxrl_llm.errors import UserError

Part = Literal["train", "holdout"]
TFDS = "tfds:"
ENDINGS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".array_record": "array_record",
}


class Input(NamedTuple):
    """A file, or a TFDS split: what `holdout` takes its share of."""

    name: str
    size: int  # bytes on disk
    identity: Callable[[], str]  # another one where the content is
    read: Callable[[OnRead], Iterator[Document]]


def ignore(n: int) -> None:
    """An `OnRead` that does nothing."""


def read_documents(config: CorpusConfig, part: Part = "train", on_read: OnRead = ignore) -> Iterator[Document]:
    """The documents of a corpus in order, but for those of white space alone.

    Of each input, "holdout" is the last `holdout` share of its documents, of its characters where it is one document;
    "train" is the rest.

    Raises:
        UserError: a file is missing, empty, undecodable, not of its format or has no such field; or a share is empty.
    """
    for item in inputs(config):
        documents = functools.partial(_documents, item)
        if part == "train" and not config.holdout:
            yield from documents(on_read)
        else:
            yield from split_holdout(documents, item.name, config.holdout, part, on_read)


def split_holdout(
    documents: Callable[[OnRead], Iterator[Document]], name: str, holdout: float, part: Part, on_read: OnRead = ignore
) -> Iterator[Document]:
    """One part of an input; `documents` reads it, twice: they are counted first.

    Raises:
        UserError: one of the parts would be empty.
    """
    count = sum(1 for _ in documents(ignore))
    if count == 1:
        [document] = documents(on_read)
        size, unit = len(document.text), "character"
    else:
        size, unit = count, "document"
    cut = int(size * (1 - holdout))
    if not 0 < cut < size:
        raise UserError(
            f"{name}: holdout={holdout} of {size} {unit}(s) leaves no {unit} on one side\n"
            "  mend: set another holdout, or leave it out and evaluate on other data"
        )
    if count == 1:
        yield document._replace(text=document.text[:cut] if part == "train" else document.text[cut:])
    else:
        yield from itertools.islice(documents(on_read), *((cut,) if part == "train" else (cut, None)))


def inputs(config: CorpusConfig) -> list[Input]:
    """The files of a corpus, or its TFDS split.

    Raises:
        UserError: one is missing, empty, or of a format that its name does not tell.
    """
    paths = [config.path] if isinstance(config.path, str) else list(config.path)
    if config.format == "tfds" or any(path.startswith(TFDS) for path in paths):
        if len(paths) > 1:
            raise UserError(
                f"{', '.join(paths)}: a TFDS data set stands alone\n  mend: name several corpora under data.mix"
            )
        return [_tfds_input(paths[0].removeprefix(TFDS), config)]
    return [_file_input(file, config) for path in paths for file in expand(path)]


def expand(path: str) -> list[Path]:
    """The files of a path, sorted: itself, all below a directory (but hidden ones), or a glob's (** is any depth).

    Raises:
        UserError: there is none.
    """
    here = Path(path).expanduser()
    if here.is_file():
        return [here]
    if here.is_dir():
        below = (file.relative_to(here) for file in here.rglob("*") if file.is_file())
        files = sorted(here / file for file in below if not any(name.startswith(".") for name in file.parts))
    else:
        files = sorted(Path(name) for name in glob.glob(str(here), recursive=True) if Path(name).is_file())
    if not files:
        found = "an empty directory" if here.is_dir() else "no file matches" if glob.has_magic(path) else "no such file"
        raise UserError(f"{path}: {found} (seen from {Path.cwd()})\n  mend: set data.path to a file, directory or glob")
    return files


def _documents(item: Input, on_read: OnRead) -> Iterator[Document]:
    return (document for document in item.read(on_read) if document.text.strip())


def _file_input(file: Path, config: CorpusConfig) -> Input:
    size = file.stat().st_size
    if size == 0:
        raise UserError(f"{file}: an empty file\n  mend: fill it, or set the path to a glob without it")
    form = _format(file, config)
    read = functools.partial(READERS[form], file, config)
    return Input(str(file), size, lambda: f"{form} {_content_hash(file)}", read)


def _format(file: Path, config: CorpusConfig) -> str:
    if config.format != "auto":
        return config.format
    for ending, name in ENDINGS.items():
        if file.name.endswith(ending):
            return name
    raise UserError(
        f"{file}: the name does not tell its format (known: {', '.join(ENDINGS)})\n"
        "  mend: set `format` to text, jsonl, parquet or array_record, or set the path to a glob without this file"
    )


def _content_hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _tfds_input(where: str, config: CorpusConfig) -> Input:
    """The split of NAME[/CONFIG][:VERSION], or of the DIRECTORY of a version."""
    builder = _tfds_builder(where)
    name = builder.info.full_name
    stored = builder.info.file_format.value if builder.info.file_format else "an unknown format"
    if stored != "array_record":
        raise UserError(
            f"{name} in {builder.data_dir} is stored as {stored}, which takes TensorFlow to read\n"
            f"  mend: prepare it as array_record: `tfds build {name.split('/')[0]} --file_format=array_record`"
        )
    try:
        split = builder.info.splits[config.split]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{name} has no split {config.split!r}; there is: {', '.join(sorted(builder.info.splits))}\n"
            "  mend: set `split` to one of these"
        ) from error
    files = [Path(file) for file in split.filepaths]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file, though {name} names it\n  mend: prepare the data set again")
    sizes = [file.stat().st_size for file in files]
    identity = f"{name} {config.split} {sizes}"
    return Input(f"{name}/{config.split}", sum(sizes), lambda: identity, functools.partial(read_tfds, builder, config))


def _tfds_builder(where: str) -> Any:
    from tensorflow_datasets.core import read_only_builder

    try:
        if Path(where).expanduser().is_dir() or where.startswith(("/", ".", "~")):
            return read_only_builder.builder_from_directory(Path(where).expanduser())
        name, _, version = where.partition(":")
        name, _, variant = name.partition("/")
        wanted = {"config": variant, "version": version}
        return read_only_builder.builder_from_files(name, **{key: value for key, value in wanted.items() if value})
    except (ValueError, OSError) as error:
        raise UserError(
            f"tfds:{where} is not prepared here: {str(error).splitlines()[0]}\n"
            "  mend: `tfds build NAME --file_format=array_record`, where TensorFlow (and for some, Beam) is there;\n"
            "        then name it, NAME[/CONFIG][:VERSION] in $TFDS_DATA_DIR, or the directory of its version"
        ) from error
