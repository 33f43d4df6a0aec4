"""The way from a name and overrides to a validated config that knows where each value came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxrl_llm.config.checks import check
from jaxrl_llm.config.inherit import Planned, huggingface_layer, inherited
from jaxrl_llm.config.layers import file_layers, find_config, parse_overrides
from jaxrl_llm.config.problems import refuse
from jaxrl_llm.config.root import PRESET_TABLES, Config
from jaxrl_llm.config.show import leaf_origins
from jaxrl_llm.config.validate import build
from jaxrl_llm.config.yaml_source import Node, shown
from jaxrl_llm.data.config import DataConfig


@dataclass(frozen=True)
class Resolved:
    """A config and its history."""

    config: Config
    source: str  # the file it was asked for by
    provenance: Mapping[
        str, str
    ]  # dotted key -> "file:line", "preset NAME", "init_from RUN" or "command line"; the others are defaults


def resolve(path: str | Path, overrides: Sequence[str] = (), planned: Planned | None = None) -> Resolved:
    """Read a config and all that it extends, lay `a.b.c=value` overrides on top, and check everything.

    `path` is a file or a name in the packaged configs; `planned` are runs that will be there, from which this one may
    start.  A UserError names all faults, each with its file:line.
    """
    source = find_config(path)
    layers = [node for _, node in file_layers(source)]
    if overrides:
        layers.append(replace(parse_overrides(overrides), origin=layers[-1].origin))
    from_run = inherited(layers, planned or {})
    config, tree = build(Config, [from_run, *layers] if from_run else layers, PRESET_TABLES)
    refuse(check(config), tree)
    return Resolved(config, shown(source), leaf_origins(tree))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """`resolve` without the history."""
    return resolve(path, overrides).config


def of_huggingface(folder: Path, workdir: str) -> Resolved:
    """The config of a Hugging Face model as a run of no steps: it needs no data, and what opens runs opens it."""
    origin = shown(folder / "config.json")
    layer = huggingface_layer(folder, origin)
    context = layer.value["model"].value["context"].value
    own = {"workdir": workdir, "training": {"steps": 0}, "data": {"length": min(DataConfig().length, context)}}
    config, tree = build(Config, [Node.of(own, origin), layer], PRESET_TABLES)
    refuse(check(config), tree)
    return Resolved(config, origin, leaf_origins(tree))
