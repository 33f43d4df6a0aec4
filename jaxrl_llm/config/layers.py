"""The layers of a config: the files that one `extends`, the command line, and how a later one is laid on an earlier."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jaxrl_llm
from jaxrl_llm.config.yaml_source import Node, describe, parse_value, read_yaml, shown
from jaxrl_llm.errors import UserError

COMMAND_LINE = "command line"
# A mapping is about one thing: when a later layer names another one, the keys that described the first are dropped.
SELECTORS = ("kind", "preset")


def packaged_configs() -> Path:
    """The folder configs/: inside the installed package, or beside it in a checkout."""
    package = Path(jaxrl_llm.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path, folder: Path | None = None) -> Path:
    """The file that `name` means: a path (relative to `folder`), or a name inside the packaged configs.

    `pretrain/debug`, `pretrain/debug.yaml` and `configs/pretrain/debug.yaml` all name the same packaged file.
    """
    path = (folder or Path()) / name
    inside = packaged_configs() / Path(name).as_posix().removeprefix("configs/")
    for candidate in (path, _with_yaml(path), inside, _with_yaml(inside)):
        if os.path.isfile(candidate):  # unlike Path.is_file, False where one may not look
            return candidate
    if os.path.isdir(path):
        raise UserError(f"{shown(path)}: is a folder\n  mend: name a YAML file, e.g. {shown(path / 'config.yaml')}")
    known = [str(file.relative_to(packaged_configs()).with_suffix("")) for file in packaged_configs().rglob("*.yaml")]
    beside = [str(file) for pattern in ("*.yaml", "*.yml") for file in path.parent.glob(pattern)]
    near = difflib.get_close_matches(str(path), beside, n=2) + difflib.get_close_matches(
        Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml"), known, n=2
    )
    mend = f"did you mean {' or '.join(near)}?" if near else f"packaged configs: {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"{name}: there is no such config file\n  {mend}")


def _with_yaml(path: Path) -> Path:
    return path.with_name(path.name + ".yaml") if path.name else path


def file_layers(path: Path, extended_by: Sequence[Path] = ()) -> list[tuple[Path, Node]]:
    """The file and all that it extends, earliest layer first, each file once."""
    path = path.resolve()
    if path in extended_by:
        chain = " -> ".join(shown(file) for file in [*extended_by[extended_by.index(path) :], path])
        raise UserError(f"{shown(path)}: `extends` runs in a circle: {chain}")
    node = read_yaml(path)
    layers: dict[Path, Node] = {}
    for parent in _parents(node):
        try:
            found = find_config(parent, path.parent)
        except UserError as error:
            raise UserError(f"{node.value['extends'].origin}: extends: {error}") from None
        for file, layer in file_layers(found, [*extended_by, path]):
            layers.setdefault(file, layer)  # what two parents share stays below both
    own = {key: child for key, child in node.value.items() if key != "extends"}
    return [*layers.items(), (path, Node(own, node.origin))]


def _parents(node: Node) -> list[str]:
    extends = node.value.get("extends")
    if extends is None:
        return []
    names = extends.value if isinstance(extends.value, list) else [extends.value]
    if not all(isinstance(name, str) and name for name in names):
        raise UserError(
            f"{extends.origin}: extends: expected a file name or a list of them, found {describe(extends.value)}"
        )
    return names


def merge(base: Node | None, over: Node) -> Node:
    """`over` laid on `base`: mappings key by key, all else replaced; another kind or preset starts a mapping anew."""
    if base is None:
        return over
    if over.replaces or not (base.is_mapping and over.is_mapping) or _selects_another(base, over):
        return replace(over, covers=True)
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged.get(key), child)
    return Node(merged, over.origin, covers=True)


def _selects_another(base: Node, over: Node) -> bool:
    for selector in SELECTORS:
        new, old = over.value.get(selector), base.value.get(selector)
        if new is not None and not new.is_mapping and (old is None or new.value != old.value):
            return True
    return False


def parse_overrides(overrides: Sequence[str]) -> Node:
    """`a.b.c=value` arguments as one layer, so their order matters only where two set the same key: the later wins.

    The value is YAML.  A mapping replaces what is below (`data.mix={a: {path: x}}`) instead of being merged into it.
    """
    layer: dict[str, Node] = {}
    problems = []
    for text in overrides:
        try:
            key, node = _parse_override(text)
            _put(layer, key, node)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return Node(layer, COMMAND_LINE)


def _parse_override(text: str) -> tuple[list[str], Node]:
    dotted, equals, written = text.partition("=")
    names = dotted.strip().split(".")
    if not equals:
        raise UserError(f"{COMMAND_LINE}: {text!r} is no override\n  mend: write key=value, e.g. training.steps=100")
    if not all(names):
        raise UserError(
            f"{COMMAND_LINE}: {text!r}: expected names with dots between them before the `=`, as in a.b=value"
        )
    try:
        node = parse_value(written, COMMAND_LINE)
    except UserError as error:
        raise UserError(
            f"{error}\n  in {text!r}\n  mend: put a text with special characters in quotes: '{dotted}=\"...\"'"
        ) from None
    if node is None:
        raise UserError(
            f"{COMMAND_LINE}: {dotted}= has no value\n  mend: write {dotted}=null, or '{dotted}=\"\"' for an empty text"
        )
    return names, replace(node, replaces=node.is_mapping)


def _put(layer: dict[str, Node], names: list[str], node: Node) -> None:
    """Set a nested key; what stands in the way is replaced, as the later of two."""
    for name in names[:-1]:
        inner = layer.get(name)
        if inner is None or not inner.is_mapping:
            inner = layer[name] = Node({}, COMMAND_LINE)
        layer = inner.value
    layer[names[-1]] = node
