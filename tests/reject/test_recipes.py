"""Every recipe of `reject` says its command, and no option is without one; `config` shows and compares them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.config.layers import find_config
from jaxrl_llm.reject import config as schemas
from jaxrl_llm.reject.config import DrawConfig, RejectConfig, SourceConfig, resolve_reject
from jaxrl_llm.rollout.config import LengthPenaltyConfig, ModelRewardConfig
from tests.config.test_golden import NAMES

RECIPES = [name for name in NAMES if name.startswith("reject/")]
SCHEMAS = [
    each for name, each in vars(schemas).items() if name.endswith("Config") and each.__module__ == schemas.__name__
]
ALONE = {"workdir", "mesh"}  # the same whatever is asked


def sections(value: Any) -> list[Any]:
    """All sections of a config, nested ones too."""
    if isinstance(value, dict):
        return [section for each in value.values() for section in sections(each)]
    if not dataclasses.is_dataclass(value):
        return []
    inner = [section for field in dataclasses.fields(value) for section in sections(getattr(value, field.name))]
    return [value, *inner]


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_begins_with_what_it_is(name: str) -> None:
    head = find_config(name).read_text(encoding="utf-8").split("\n")
    assert head[0].startswith("# ")
    assert any(f"jaxrl-llm reject {name}" in line or "pipelines" in line for line in head if line.startswith("#"))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_option_has_a_recipe(schema: type) -> None:
    """One in which it is not as by default."""
    found = [section for name in RECIPES for section in sections(resolve_reject(name).config)]
    found = [section for section in found if isinstance(section, schema)]
    assert found
    options = [field for field in dataclasses.fields(schema) if field.name != "kind" and field.name not in ALONE]
    assert not [each.name for each in options if all(getattr(one, each.name) == usual(each) for one in found)]


def usual(field: "dataclasses.Field[Any]") -> Any:
    """Its default."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def test_the_schemas_are_all_there() -> None:
    assert {RejectConfig, SourceConfig, DrawConfig} <= {*SCHEMAS}
    parts = [part for name in RECIPES for part in resolve_reject(name).config.rewards.parts.values()]
    assert {ModelRewardConfig, LengthPenaltyConfig} <= {type(part) for part in parts}


def test_config_shows_and_compares_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(*words: str, code: int = 0) -> str:
        assert main(["config", *words]) == code
        return " ".join("".join(capsys.readouterr()).split())

    shown = said("show", "reject/top_k", "select.n=3")
    assert "select.n 3" in shown
    assert "command line" in shown
    assert "top_k.yaml:" in shown
    assert "pairs.kind best_worst" in said("show", "reject/top_k", "--all")
    assert "workdir runs/reject runs/reject_2" in said("diff", "reject/stories260k", "reject/top_k")
    assert "different verbs" in said("diff", "reject/stories260k", "sft/stories260k", code=2)
    capsys.readouterr()
    assert main(["config", "schema", "--of", "reject"]) == 0
    assert {"extends", "models", "select"} <= json.loads(capsys.readouterr().out)["properties"].keys()
