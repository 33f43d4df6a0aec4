"""YAML read as strict data: every value knows its file and line, and nothing is guessed.

Plain values follow the core of YAML 1.2 and less: `null`, `~`; `true`, `false`; decimal whole numbers; decimal numbers
such as `1e-3` and `.inf`.  All else is text: `yes`, `on`, `010`, `1_000`, `12:30:00`, `2024-01-01`.  Tags, anchors and
aliases are refused, so a file can neither construct objects nor grow when it is read.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jaxrl_llm.errors import UserError

_FLOAT = r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)$"
_PLAIN: dict[
    str, tuple[str, list[str], Callable[[str], Any]]
] = {  # tag -> what it looks like, how it starts, its value
    "tag:yaml.org,2002:null": (r"(?:null|Null|NULL|~|)$", ["n", "N", "~", ""], lambda _: None),
    "tag:yaml.org,2002:bool": (
        r"(?:true|True|TRUE|false|False|FALSE)$",
        list("tTfF"),
        lambda text: text.lower() == "true",
    ),
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9]{0,18})$", list("-+0123456789"), int),
    "tag:yaml.org,2002:float": (_FLOAT, list("-+.0123456789"), lambda text: float(text.replace(".inf", "inf"))),
}


@dataclass(frozen=True)
class Node:
    """A value and where it was written.

    `value` is a dict of Nodes for a mapping, else a plain list, number, text, bool or None.  `replaces`: stands for the
    whole value, so that a mapping is not merged into the one below.  `covers`: an earlier layer had a value here.
    """

    value: Any
    origin: str
    replaces: bool = False
    covers: bool = False

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a dict of Nodes."""
        return isinstance(self.value, dict)

    def plain(self) -> Any:
        """The value without its origins."""
        return {key: child.plain() for key, child in self.value.items()} if self.is_mapping else self.value

    @staticmethod
    def of(value: Any, origin: str) -> "Node":
        """Plain data as Nodes of one origin."""
        if isinstance(value, dict):
            return Node({key: Node.of(child, origin) for key, child in value.items()}, origin)
        return Node(list(value) if isinstance(value, tuple) else value, origin)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser and composer with our own table of plain values, and without anchors and tags."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  PyYAML's table, which `add_implicit_resolver` below fills

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise yaml.MarkedYAMLError(
                problem="anchors (&) and aliases (*) are not used here", problem_mark=event.start_mark
            )
        if event.tag:
            raise yaml.MarkedYAMLError(problem=f"tags ({event.tag}) are not used here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


for _tag, (_pattern, _first, _) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


class Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: a text is quoted exactly where it would be read as something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _float(dumper: Dumper, value: float) -> Any:
    text = ("-" if value < 0 else "") + ".inf" if abs(value) == float("inf") else repr(value)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _text(dumper: Dumper, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "\n" in value else None)


Dumper.add_representer(float, _float)
Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """A plain value on one line, such that reading it gives the value back."""
    line = yaml.dump(
        [value], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    )
    return line[1:-2]


def shown(path: Path) -> str:
    """A path as messages name it: relative to the working directory when inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def read_yaml(path: Path) -> Node:
    """The mapping that a YAML file holds.  Refuses all else, duplicate keys and broken syntax, with file:line."""
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{name}:{line}: is not UTF-8 text (byte {error.start})\n  mend: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    node = _parse(
        text, lambda mark: f"{name}:{mark.line + 1}", lambda mark: f"{name}:{mark.line + 1}:{mark.column + 1}"
    )
    if node is None:
        raise UserError(f"{name}: is empty\n  mend: write at least one `key: value`")
    if not node.is_mapping:
        raise UserError(f"{node.origin}: expected `key: value` lines, found {describe(node.value)}")
    return Node(node.value, name)


def parse_value(text: str, origin: str) -> Node | None:
    """One value written as YAML, e.g. on the command line; None when there is nothing but space or a comment."""
    return _parse(text, lambda _: origin, lambda _: origin)


def describe(value: Any) -> str:
    """A value in the words of an error message."""
    if isinstance(value, dict):
        return "a mapping (key: value)"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57] + '...'!r}"
    return f"the number {value}" if isinstance(value, int | float) and not isinstance(value, bool) else to_yaml(value)


def _parse(text: str, origin: Callable[[Any], str], place: Callable[[Any], str]) -> Node | None:
    """Compose and convert; `origin` and `place` turn a mark into file:line and file:line:column."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        return None if root is None else _convert(root, origin)
    except yaml.MarkedYAMLError as error:
        where = place(error.problem_mark) if error.problem_mark else place(error.context_mark)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{where}: not valid YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        mark = yaml.Mark("", 0, text.count("\n", 0, error.position), 0, None, 0)
        raise UserError(f"{place(mark)}: not valid YAML: a character that may not stand in a text file") from None
    except RecursionError:
        raise UserError(f"{place(yaml.Mark('', 0, 0, 0, None, 0))}: nested too deeply to be read") from None


def _convert(node: yaml.Node, origin: Callable[[Any], str]) -> Node:
    where = origin(node.start_mark)
    if not isinstance(node, yaml.MappingNode):
        return Node(_leaf(node), where)
    children: dict[str, Node] = {}
    for key_node, child in node.value:
        key = key_node.value
        line = origin(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode) or not key:
            raise UserError(f"{line}: a key must be a plain name")
        if key in children:
            raise UserError(
                f"{line}: the key {key!r} stands twice in one mapping; the first is at {children[key].origin}"
            )
        children[key] = Node(_convert(child, origin).value, line)
    return Node(children, where)


def _leaf(node: yaml.Node) -> Any:
    """A scalar or list as plain data; mappings inside of lists become plain dicts."""
    if isinstance(node, yaml.SequenceNode):
        return [_leaf(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _convert(node, lambda mark: f"line {mark.line + 1}").plain()
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise yaml.MarkedYAMLError(problem="a text that is not Unicode", problem_mark=node.start_mark) from None
    return _PLAIN[node.tag][2](node.value) if node.tag in _PLAIN else node.value
