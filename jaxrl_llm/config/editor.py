"""The JSON schema of config files, for editors: completion, descriptions, and faults while one types."""

from typing import Any

from pydantic import TypeAdapter

from jaxrl_llm.config.root import PRESET_TABLES, Config


def json_schema(root: type = Config) -> dict[str, Any]:
    """A schema of what one file may say.  Nothing is required, since files extend each other."""
    schema = TypeAdapter(root).json_schema()
    for section in [schema, *schema["$defs"].values()]:
        section.pop("required", None)
        for prop in section["properties"].values():
            _loosen(prop)
    for cls, presets in PRESET_TABLES.items():
        if cls.__name__ in schema["$defs"]:
            schema["$defs"][cls.__name__]["properties"]["preset"]["enum"] = [*presets, None]
    name = {"type": "string"}
    extends = {
        "description": "Configs that this one is laid on: paths relative to this file, or packaged names.",
        "anyOf": [name, {"type": "array", "items": name}],
    }
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _loosen(prop: Any) -> None:
    """A partial section may fit several kinds, and `null` takes a named entry out of a mapping."""
    if isinstance(prop, dict):
        prop.pop("discriminator", None)
        if "oneOf" in prop:
            prop["anyOf"] = prop.pop("oneOf")
        named = prop.get("additionalProperties")
        if isinstance(named, dict):
            _loosen(named)
            prop["additionalProperties"] = {"anyOf": [named, {"type": "null"}]}
        for part in prop.get("anyOf", []):
            _loosen(part)
