"""From a merged tree to a validated, frozen object; pydantic's findings in our own words."""

import json
from collections.abc import Sequence
from functools import cache, reduce
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from jaxrl_llm.config.layers import merge
from jaxrl_llm.config.problems import Path, Problem, refuse
from jaxrl_llm.config.settle import Presets, settle
from jaxrl_llm.config.yaml_source import Node, describe

T = TypeVar("T")
_adapter: Any = cache(TypeAdapter)  # making one takes a while

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping (key: value)",
    "dataclass_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "list_type": "a list",
    "none_required": "null",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} item(s)",
}


def build(root: type[T], layers: Sequence[Node], presets: Presets) -> tuple[T, Node]:
    """Merge the layers, earliest first, into a `root` and the settled tree; a UserError names all faults at once."""
    implied, _ = settle(Node({}, layers[0].origin), root, presets)
    merged = reduce(merge, layers, implied)
    tree, problems = settle(merged, root, presets)
    try:
        # JSON is where strict types still allow a list for a tuple and a mapping for a dataclass
        made = _adapter(root).validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        problems += _translate(error, tree)
        refuse(problems, merged)
        raise  # not reached: there is a problem
    refuse(problems, merged)
    return made, tree


def _translate(error: ValidationError, tree: Node) -> list[Problem]:
    """One problem a value, even where a union made several errors of it."""
    found: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_path(detail, tree), []).append(detail)
    return [Problem(path, _words(details)) for path, details in found.items()]


def _path(detail: ErrorDetails, tree: Node) -> Path:
    """The path as the user wrote it: pydantic's location without its names for the members of unions."""
    path: list[str] = []
    skip = None  # after a mapping with a kind, pydantic names the kind
    for part in detail["loc"]:
        if part == skip:
            skip = None
        elif tree.is_mapping and part in tree.value:
            path.append(str(part))
            tree = tree.value[part]
            kind = tree.value.get("kind") if tree.is_mapping else None
            skip = kind.value if kind is not None else None
        elif detail["type"] == "missing":
            path.append(str(part))
    return tuple(path)


def _words(details: list[ErrorDetails]) -> str:
    first = details[0]
    if first["type"] == "missing":
        return "is missing, and has no default"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    expected = list(dict.fromkeys(_expected(detail) for detail in details))
    if None in expected:
        return first["msg"][0].lower() + first["msg"][1:]
    value = first["input"] if len(details) == 1 else _outermost(details)
    return f"expected {' or '.join(map(str, expected))}, found {describe(value)}{_hint(first['type'], value)}"


def _expected(detail: ErrorDetails) -> str | None:
    if detail["type"] == "literal_error":
        return detail["ctx"]["expected"].replace("'", "")
    words = _EXPECTED.get(detail["type"])
    in_list = bool(detail["loc"]) and isinstance(detail["loc"][-1], int)
    return ("a list, each item " if in_list else "") + words.format(**detail.get("ctx", {})) if words else None


def _outermost(details: list[ErrorDetails]) -> Any:
    """The value that all members of a union refused, rather than one item of a list in it."""
    return min(details, key=lambda detail: len(detail["loc"]))["input"]


def _hint(error: str, value: Any) -> str:
    """The mend, where it is plain what was meant."""
    if error == "int_type" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if error in ("int_type", "float_type") and isinstance(value, str) and value.replace("_", "").isdecimal():
        return f"; write {int(value.replace('_', ''))}"
    if error == "bool_type" and isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        return f"; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    return ""
