"""Make a merged tree ready for validation: default kinds filled in, presets expanded, removed names dropped.

Unknown keys, kinds and presets are found here, where the names that would have been right are known.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from jaxrl_llm.config.layers import merge
from jaxrl_llm.config.problems import Path, Problem
from jaxrl_llm.config.yaml_source import Node

Presets = Mapping[type, Mapping[str, Any]]  # a schema with a field `preset` -> name -> an instance of it


def fields_of(schema: type) -> dict[str, FieldInfo]:
    """The fields of a `@schema` class, in the order in which they were written."""
    known: dict[str, FieldInfo] = schema.__pydantic_fields__  # type: ignore[attr-defined]  # pydantic's own, set at run time
    return {field.name: known[field.name] for field in dataclasses.fields(schema)}


def members(annotation: Any) -> list[type]:
    """The schema classes that an annotation names: one for a section, several for a union, none for a plain value."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation] if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else []


def entries(annotation: Any) -> Any | None:
    """X where the annotation is a mapping of named sections `dict[str, X]`, else None."""
    if get_origin(annotation) is dict and members(get_args(annotation)[1]):
        return get_args(annotation)[1]
    return None


def kinds(schemas: list[type]) -> dict[str, type]:
    """The value of `kind` that stands for each schema class that has one."""
    found = {}
    for schema in schemas:
        field = fields_of(schema).get("kind")
        if field is not None and get_origin(field.annotation) is Literal:
            found.update(dict.fromkeys(get_args(field.annotation), schema))
    return found


def all_keys(schema: type, prefix: Path = ()) -> Iterator[tuple[Path, type]]:
    """The path of every key that a config may have, sections included, and the class that declares it.

    NAME stands for the names that users choose.
    """
    for name, field in fields_of(schema).items():
        here = (*prefix, name)
        yield here, schema
        for member in members(field.annotation):
            yield from all_keys(member, here)
        for member in members(entries(field.annotation)):
            yield from all_keys(member, (*here, "NAME"))


def settle(tree: Node, root: type, presets: Presets) -> tuple[Node, list[Problem]]:
    """The settled tree, without what is not known, and the problems found."""
    walk = _Settler(root, presets)
    return walk.section(tree, root, ()), walk.problems


class _Settler:
    """One walk over a tree beside its schema."""

    def __init__(self, root: type, presets: Presets) -> None:
        self.root = root
        self.presets = presets
        self.problems: list[Problem] = []

    def section(self, node: Node, schema: type, path: Path) -> Node:
        """A mapping whose keys are the fields of `schema`."""
        if schema in self.presets:
            node = self._expand_preset(node, schema, path)
        fields, settled = fields_of(schema), {}
        for key, child in node.value.items():
            if key in fields:
                value = self._value(child, fields[key], (*path, key))
                if value is not None:
                    settled[key] = value
            else:
                self.problems.append(Problem((*path, key), self._unknown_key(key, schema, path)))
        for key, field in fields.items():
            if key not in settled and len(kinds(members(field.annotation))) > 1 and not field.is_required():
                implied = self._with_default_kind(Node({}, "default"), field)
                if implied.value:
                    settled[key] = implied
        return Node(settled, node.origin)

    def _value(self, node: Node, field: FieldInfo, path: Path) -> Node | None:
        """The settled value of one field; None where it was refused."""
        if not node.is_mapping:
            return node
        entry = entries(field.annotation)
        if entry is not None:
            return self._named(node, entry, path)
        return self._member(self._with_default_kind(node, field), members(field.annotation), path)

    def _member(self, node: Node, schemas: list[type], path: Path) -> Node | None:
        """A section, of the schema that its `kind` names where there are several."""
        known = kinds(schemas)
        given = node.value.get("kind")
        if given is not None and known and not (isinstance(given.value, str) and given.value in known):
            near = _near(given.value, known)
            self.problems.append(
                Problem((*path, "kind"), f"unknown kind {given.plain()!r}{near}; known: {', '.join(known)}")
            )
            return None
        if len(schemas) > 1 and given is None:
            self.problems.append(Problem((*path, "kind"), f"is missing; known: {', '.join(known)}"))
            return None
        if not schemas:
            return node
        return self.section(node, known[given.value] if given is not None and known else schemas[0], path)

    def _named(self, node: Node, entry: Any, path: Path) -> Node:
        """A mapping of names that the user chose; `name: null` removes one that an earlier layer had."""
        settled = {}
        for name, child in node.value.items():
            if "." in name:
                self.problems.append(Problem((*path, name), "a name may not have a dot in it: dots separate keys"))
            elif child.value is not None:
                value = self._member(child, members(entry), (*path, name)) if child.is_mapping else child
                if value is not None:
                    settled[name] = value
            elif not child.covers:
                others = [other for other, sibling in node.value.items() if sibling.value is not None]
                there = f"there is: {', '.join(others)}" if others else "nothing is there"
                self.problems.append(
                    Problem(
                        (*path, name), f"null removes a name, and this one is not there{_near(name, others)}; {there}"
                    )
                )
        return Node(settled, node.origin)

    def _with_default_kind(self, node: Node, field: FieldInfo) -> Node:
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        kind = getattr(default, "kind", None)
        if kind is None or "kind" in node.value:
            return node
        return Node({"kind": Node(kind, "default"), **node.value}, node.origin)

    def _expand_preset(self, node: Node, schema: type, path: Path) -> Node:
        """The preset's values with the section's own keys on top."""
        given, table = node.value.get("preset"), self.presets[schema]
        if given is None or not isinstance(given.value, str):
            return node
        if given.value not in table:
            near = _near(given.value, table)
            self.problems.append(
                Problem((*path, "preset"), f"unknown preset {given.value!r}{near}; known: {', '.join(table)}")
            )
            return node
        values = dataclasses.asdict(table[given.value]) | {"preset": given.value}
        return merge(Node.of(values, f"preset {given.value}"), node)

    def _unknown_key(self, key: str, schema: type, path: Path) -> str:
        if "." in key:
            return "a key may not have a dot in it\n    mend: write it nested, as in `training: {steps: 100}`"
        everywhere = list(all_keys(self.root))
        owners = [_kind_of(owner) for name, owner in everywhere if name == (*path, key)]
        if owners:
            return f"belongs to kind {' or '.join(owners)}, and this is {_kind_of(schema)}"
        siblings = list(fields_of(schema))
        near = [(*path, name) for name in difflib.get_close_matches(key, siblings, n=2)]
        if not near:
            names = {name[-1]: None for name, _ in everywhere}
            alike = [key] if key in names else difflib.get_close_matches(key, names, n=1)
            near = list(dict.fromkeys(name for name, _ in everywhere if name[-1] in alike))[:3]
        if near:
            return f"unknown key, did you mean {' or '.join('.'.join(name) for name in near)}?"
        return f"unknown key; known here: {', '.join(siblings)}"


def _near(name: Any, known: Any) -> str:
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def _kind_of(schema: type) -> str:
    return next(iter(kinds([schema])), schema.__name__)
