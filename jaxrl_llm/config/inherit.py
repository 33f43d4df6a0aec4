"""`init_from` brings its model and tokenizer along: they are the lowest layer of the config that names it.

Of a run that a pipeline has yet to make, the config is known already: its sections are those that will be in its
config.yaml, so what starts from it is the same before and after.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jaxrl_llm.algos import AlgoConfig
from jaxrl_llm.config.root import Config
from jaxrl_llm.config.settle import kinds, members
from jaxrl_llm.config.yaml_source import Node, read_yaml
from jaxrl_llm.models.hf import base_model, describe, is_adapter, is_huggingface

SECTIONS = ("model", "tokenizer")
Planned = Mapping[str, Config]  # absolute directory of a run that will be there -> its config
WITH_CRITIC = {kind for kind, algo in kinds(members(AlgoConfig)).items() if "value" in algo().trained}


def inherited(layers: Sequence[Node], planned: Planned) -> Node | None:
    """The sections of the models that the last `init_from` of these layers names, and the last `critic.init_from`.

    None where there are no such models.  (Whether they have weights is found out when they are opened.)
    """
    policy = _last(layers, "init_from")
    found = _layer_of(policy, f"init_from {policy}", planned) if policy is not None else None
    critic = _last([layer.value["critic"] for layer in layers if "critic" in layer.value], "init_from")
    kind = _last([layer.value["algo"] for layer in layers if "algo" in layer.value], "kind")
    shape = _critic_shape(policy, critic, planned) if kind in WITH_CRITIC else None
    if shape is None:
        return found
    section = Node({"critic": Node({"model": shape}, shape.origin)}, shape.origin)
    return section if found is None else replace(found, value={**found.value, **section.value})


def planned_at(planned: Planned, path: str | Path) -> Config | None:
    """The config of the run that will be at this path, which may name one of its checkpoints."""
    return planned.get(os.path.abspath(run_folder(Path(path))))


def run_folder(path: Path) -> Path:
    """The run directory of a path that names it or one of its checkpoints."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _last(layers: Sequence[Node], key: str) -> str | None:
    named = [layer.value[key].value for layer in layers if layer.is_mapping and key in layer.value]
    return named[-1] if named and isinstance(named[-1], str) else None


def _layer_of(path: str, origin: str, planned: Planned) -> Node | None:
    """What a run or a Hugging Face directory decides of a run that starts from it."""
    saved = _saved_config(path, planned)
    if saved is not None:
        return Node({name: _of_origin(saved[name], origin) for name in SECTIONS if name in saved}, origin)
    folder = base_model(Path(path))[0] if is_adapter(Path(path)) else Path(path)
    return huggingface_layer(folder, origin) if is_huggingface(folder) else None


def _critic_shape(policy: str | None, critic: str | None, planned: Planned) -> Node | None:
    """`critic.model`: that of the model which the critic starts from, where that is not the policy's."""
    path, key = (critic, "critic.init_from") if critic is not None else (policy, "init_from")
    saved = _saved_config(path, planned) if path is not None else None
    section = saved.get("critic") if saved is not None else None
    shape = section.value.get("model") if section is not None and section.is_mapping else None
    if shape is not None and shape.is_mapping:  # a run of PPO, whose critic has a shape of its own
        return _of_origin(shape, f"{key} {path}")
    layer = _layer_of(critic, f"{key} {critic}", planned) if critic is not None else None
    return None if layer is None else layer.value.get("model")


def _saved_config(path: str, planned: Planned) -> Mapping[str, Node] | None:
    """The config of a run, of one of its checkpoints, or of the base of an adapter; None of anything else."""
    there = planned_at(planned, path)
    if there is not None:
        return Node.of({name: asdict(getattr(there, name)) for name in SECTIONS} | _critic_of(there), "").value
    folder = base_model(Path(path))[0] if is_adapter(Path(path)) else Path(path)
    config = run_folder(folder) / "config.yaml"
    return read_yaml(config).value if config.is_file() else None


def _critic_of(config: Config) -> dict[str, object]:
    """The section, of a run that has a critic: others do not save it."""
    return {} if "critic" in config.idle else {"critic": asdict(config.critic)}


def huggingface_layer(folder: Path, origin: str) -> Node:
    """The sections that a Hugging Face directory decides."""
    sections = {
        "model": asdict(describe(folder).model),
        "tokenizer": {"kind": "huggingface", "path": str(folder)},
    }
    return Node.of(sections, origin)


def _of_origin(node: Node, origin: str) -> Node:
    value = {key: _of_origin(child, origin) for key, child in node.value.items()} if node.is_mapping else node.value
    return replace(node, value=value, origin=origin)
