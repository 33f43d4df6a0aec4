"""The inputs that a path names: files, or the split of a TFDS data set; and where the part that is held out begins."""

import glob
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxrl_llm.errors import UserError

OnRead = Callable[[int], None]  # told how many more bytes of the input were read
Part = Literal["train", "holdout"]
TFDS = "tfds:"


class TfdsSplit(NamedTuple):
    """A split of a data set that is prepared as array_record; `builder` is its TFDS builder."""

    builder: Any
    name: str


class Input(NamedTuple):
    """A file, or a TFDS split: what `holdout` takes its share of."""

    name: str
    size: int  # bytes on disk
    identity: Callable[[], str]  # another one where the content is
    form: str  # how it is stored: text, jsonl, json, parquet, array_record, tfds
    source: Any  # the file's Path, or the TfdsSplit


def ignore(n: int) -> None:
    """An `OnRead` that does nothing."""


def find_inputs(path: str | tuple[str, ...], form: Callable[[Path], str], split: str, tfds: bool) -> list[Input]:
    """The files of a path or of several, or the one TFDS split.

    Args:
        path: files, directories, globs; or `tfds:` and a data set, which stands alone.
        form: how a file is stored; raises UserError where that cannot be told.
        split: of the TFDS data set.
        tfds: the path names a data set even without `tfds:`.

    Raises:
        UserError: an input is missing or empty, or `form` refuses it.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if tfds or any(path.startswith(TFDS) for path in paths):
        if len(paths) > 1:
            raise UserError(
                f"{', '.join(paths)}: a TFDS data set stands alone\n  mend: name several corpora under data.mix"
            )
        return [_tfds_input(paths[0].removeprefix(TFDS), split)]
    return [_file_input(file, form) for path in paths for file in expand(path)]


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


def form_by_name(file: Path, endings: Mapping[str, str], mend: str) -> str:
    """How a file is stored, by the ending of its name."""
    for ending, form in endings.items():
        if file.name.endswith(ending):
            return form
    raise UserError(f"{file}: the name does not tell its format (known: {', '.join(endings)})\n  mend: {mend}")


def training_share(size: int, holdout: float) -> int:
    """How many of `size` come before the last `holdout` share of them."""
    return int(size * (1 - holdout) + 1e-6)  # 100 * (1 - 0.9) is a little less than 10


def _file_input(file: Path, form: Callable[[Path], str]) -> Input:
    size = file.stat().st_size
    if size == 0:
        raise UserError(f"{file}: an empty file\n  mend: fill it, or set the path to a glob without it")
    kind = form(file)
    return Input(str(file), size, lambda: f"{kind} {_content_hash(file)}", kind, file)


def _content_hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _tfds_input(where: str, split: str) -> Input:
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
        filepaths = builder.info.splits[split].filepaths
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{name} has no split {split!r}; there is: {', '.join(sorted(builder.info.splits))}\n"
            "  mend: set `split` to one of these"
        ) from error
    files = [Path(file) for file in filepaths]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file, though {name} names it\n  mend: prepare the data set again")
    sizes = [file.stat().st_size for file in files]
    identity = f"{name} {split} {sizes}"
    return Input(f"{name}/{split}", sum(sizes), lambda: identity, "tfds", TfdsSplit(builder, split))


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
