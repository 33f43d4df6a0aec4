"""One fault of a config, and all of them as one message."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxrl_llm.config.yaml_source import Node
from jaxrl_llm.errors import UserError

Path = tuple[str, ...]


class Problem(NamedTuple):
    """What is wrong with the value at `path`."""

    path: Path
    message: str


def origin_of(tree: Node, path: Path) -> str:
    """Where the value at `path`, or the nearest mapping around it, was written; defaults count as the file."""
    origin = tree.origin
    for name in path:
        if not tree.is_mapping or name not in tree.value:
            break
        tree = tree.value[name]
        origin = tree.origin if tree.origin != "default" else origin
    return origin


def refuse(problems: Iterable[Problem], tree: Node) -> None:
    """Raise a UserError with one line a problem, if there are any."""
    lines = [f"{origin_of(tree, path)}: {'.'.join(path)}: {message}" for path, message in problems]
    if lines:
        raise UserError(
            "\n".join(lines) if len(lines) == 1 else "\n  ".join([f"{len(lines)} faults in the config:", *lines])
        )
