"""The JSON schema for editors says what the loader says."""

from collections.abc import Iterator
from typing import Any

from jaxrl_llm.config.editor import json_schema
from jaxrl_llm.config.root import Config
from jaxrl_llm.config.settle import all_keys
from jaxrl_llm.models.presets import PRESETS

SCHEMA = json_schema()


def sections() -> list[dict[str, Any]]:
    return [SCHEMA, *SCHEMA["$defs"].values()]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)


def test_it_is_closed_and_partial_and_whole() -> None:
    for section in sections():
        assert section["additionalProperties"] is False
        assert "required" not in section
    for part in walk(SCHEMA):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]
        assert not {"oneOf", "discriminator"} & part.keys()


def test_it_has_every_key() -> None:
    expected = {(schema.__name__, path[-1]) for path, schema in all_keys(Config)}
    found = {(section["title"], name) for section in sections() for name in section["properties"]}
    assert found == expected | {("Config", "extends")}


def test_kinds_presets_and_removal() -> None:
    optim = SCHEMA["properties"]["optim"]["anyOf"]
    assert {part["$ref"] for part in optim} == {"#/$defs/AdamwConfig", "#/$defs/MuonConfig"}
    assert SCHEMA["$defs"]["MuonConfig"]["properties"]["kind"]["const"] == "muon"
    assert SCHEMA["$defs"]["LlamaConfig"]["properties"]["preset"]["enum"] == [*PRESETS, None]
    assert {"type": "null"} in SCHEMA["$defs"]["DataConfig"]["properties"]["mix"]["additionalProperties"]["anyOf"]


def test_docstrings_become_descriptions() -> None:
    assert SCHEMA["$defs"]["TrainingConfig"]["properties"]["steps"]["description"] == "Updates."
