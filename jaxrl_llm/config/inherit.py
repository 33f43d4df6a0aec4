"""`init_from` brings its model and tokenizer along: they are the lowest layer of the config that names it."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jaxrl_llm.config.yaml_source import Node, read_yaml
from jaxrl_llm.models.hf import base_model, describe, is_adapter, is_huggingface

SECTIONS = ("model", "tokenizer")


def inherited(layers: Sequence[Node]) -> Node | None:
    """The sections of the model that the last `init_from` of these layers names; None where there is no such model.

    (Whether it has weights is found out when it is opened.)
    """
    named = [layer.value["init_from"].value for layer in layers if "init_from" in layer.value]
    if not named or not isinstance(named[-1], str):
        return None
    folder = Path(named[-1])
    if is_adapter(folder):
        folder = base_model(folder)[0]
    config = (folder.parent.parent if folder.parent.name == "checkpoints" else folder) / "config.yaml"
    origin = f"init_from {named[-1]}"
    if not config.is_file():
        return huggingface_layer(folder, origin) if is_huggingface(folder) else None
    saved = read_yaml(config).value
    return Node({name: _of_origin(saved[name], origin) for name in SECTIONS if name in saved}, origin)


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
