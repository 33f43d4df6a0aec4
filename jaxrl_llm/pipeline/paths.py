"""The files and models that a stage reads, as far as its config and its arguments tell."""

import argparse
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxrl_llm.cli import VERBS, read_arguments
from jaxrl_llm.errors import UserError

# Keys of configs whose texts are paths that must be there; and arguments of verbs, by their names in argparse.
KEYS = {"path", "test_path", "init_from", "adapter", "candidates", "pool", "examples"}
ARGUMENTS = {"paths", "data", "prompts", "candidates", "directory"}
MODELS = {"model", "before", "reward", "reference", "judge", "against"}
NO_MODEL = "none"  # of --reference
UNREAD = r"eval\.tasks\..*\.path"  # problems to train on


def paths_of_config(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, path) of plain data; of a list of paths each."""
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from paths_of_config(child, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for child in tree:
            yield from paths_of_config(child, key)
    elif isinstance(tree, str) and key.rpartition(".")[2] in KEYS and not re.fullmatch(UNREAD, key):
        yield key, tree


def paths_of_arguments(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(argument, path) of a verb's arguments; of a task's settings, `path=FILE`."""
    settings = {"task": {"test_path"}, "overrides": set() if hasattr(args, "config") else KEYS}
    for name, value in vars(args).items():
        values = value if isinstance(value, list | tuple) else [value]
        for text in values:
            if not isinstance(text, str):
                continue
            key, equals, rest = text.partition("=")
            if name in ARGUMENTS or (name in MODELS and text != NO_MODEL):
                yield name, text
            elif equals and key in settings.get(name, ()):
                yield key, rest


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, as its verb reads them.  Raises UserError where it would refuse them."""
    name, *rest = arguments
    module = VERBS[name].module()
    parser = _Parser(prog=name, add_help=False)
    module.configure(parser)
    return read_arguments(parser, rest)


class _Parser(argparse.ArgumentParser):
    """One that raises, and so do those of its actions."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def is_elsewhere(path: str) -> bool:
    """Whether what is named is no path of this machine: a TFDS data set, a bucket."""
    return path.startswith("tfds:") or "://" in path


def is_there(path: str) -> bool:
    """Whether a file, a directory, or something that a glob matches is there."""
    return is_elsewhere(path) or Path(path).expanduser().exists() or bool(glob.glob(path, recursive=True))


def owner_of(path: str, directories: Mapping[str, str]) -> str | None:
    """The stage in whose directory a path lies."""
    if is_elsewhere(path):
        return None
    here = os.path.abspath(os.path.expanduser(path))
    for name, directory in directories.items():
        there = os.path.abspath(directory)
        if here == there or here.startswith(there + os.sep):
            return name
    return None
