"""A config written down: flat, as a difference, as YAML."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxrl_llm
from jaxrl_llm.config.settle import fields_of
from jaxrl_llm.config.yaml_source import Node, to_yaml
from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.config.resolve import Resolved

Flat = dict[str, Any]  # dotted key -> plain value


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()  # stands in a difference for a key that only the other config has


def flatten(config: Any) -> Flat:
    """Every key of a config that is read, dotted, in order; an empty mapping is a value."""
    return dict(_flat(_used(config), ()))


def _used(config: Any) -> dict[str, Any]:
    """As plain data, without the sections that nothing of this run reads, which are as by default."""
    return {
        name: value for name, value in dataclasses.asdict(config).items() if name not in getattr(config, "idle", ())
    }


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, child in value.items():
            yield from _flat(child, (*path, key))
    else:
        yield ".".join(path), list(value) if isinstance(value, tuple) else value


def leaf_origins(tree: Node) -> dict[str, str]:
    """Dotted key -> origin, of every value that somebody wrote."""

    def walk(node: Node, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if node.is_mapping and node.value:
            for key, child in node.value.items():
                yield from walk(child, (*path, key))
        elif node.origin != "default":
            yield ".".join(path), node.origin

    return dict(walk(tree, ()))


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in a, value in b) wherever two configs differ; ABSENT where one lacks the key."""
    flat_a, flat_b = flatten(a), flatten(b)
    sections = [field.name for field in dataclasses.fields(a)]
    keys = sorted(dict.fromkeys([*flat_a, *flat_b]), key=lambda key: sections.index(key.partition(".")[0]))
    pairs = {key: (flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in keys}
    return {key: (x, y) for key, (x, y) in pairs.items() if x is ABSENT or y is ABSENT or to_yaml(x) != to_yaml(y)}


def changed(config: Any) -> Flat:
    """What differs from the defaults of the kinds that were chosen, and what has no default."""
    defaults = dict(_flat(_defaults(config, None), ()))
    return {key: value for key, value in flatten(config).items() if key not in defaults or defaults[key] != value}


def _defaults(config: Any, default: Any) -> dict[str, Any]:
    """The nested defaults beside `config`: those of its section's default where that is of the same class."""
    nested: dict[str, Any] = {}
    for name, field in fields_of(type(config)).items():
        value = getattr(config, name)
        if type(default) is type(config):
            usual = getattr(default, name)
        elif field.is_required():
            usual = ABSENT
        else:
            usual = field.get_default(call_default_factory=True)
        if name == "kind":
            nested[name] = value if type(default) is type(config) else ABSENT
        elif dataclasses.is_dataclass(value):
            nested[name] = _defaults(value, usual)
        elif isinstance(value, dict) and value:
            nested[name] = {
                key: _defaults(entry, None) if dataclasses.is_dataclass(entry) else ABSENT
                for key, entry in value.items()
            }
        else:
            section = dataclasses.is_dataclass(usual) and not isinstance(usual, type)
            nested[name] = dataclasses.asdict(usual) if section else usual
    return nested


def dump(resolved: "Resolved") -> str:
    """The whole config as YAML, every key that is read, and where each that is no default came from.

    `load` reads it back to an equal Config, with no other file needed.
    """
    head = f"# jaxrl_llm {jaxrl_llm.__version__}: {resolved.source}, with all that it extends and all defaults\n"
    return head + "".join(_lines(_used(resolved.config), (), resolved.provenance))


def _lines(section: dict[str, Any], path: tuple[str, ...], provenance: Mapping[str, str]) -> Iterator[str]:
    for key, value in section.items():
        name = f"{'  ' * len(path)}{to_yaml(key)}:"
        if isinstance(value, dict) and value:
            yield f"{name}\n"
            yield from _lines(value, (*path, key), provenance)
        else:
            origin = provenance.get(".".join((*path, key)))
            text = to_yaml(list(value) if isinstance(value, tuple) else value)
            yield f"{name} {text}{f'  # {origin}' if origin else ''}\n"


def save(resolved: "Resolved", path: Path) -> None:
    """Write `dump` to a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(dump(resolved), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}\n  mend: another workdir") from None
