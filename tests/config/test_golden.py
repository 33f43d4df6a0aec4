"""Every packaged config, flattened and checked in, so that a change of a default shows in the configs that it changes.

Write them anew with `python -m tests.config.test_golden`, and read the difference before committing it.
"""

from pathlib import Path

import pytest

from jaxrl_llm.config import flatten
from jaxrl_llm.config.layers import packaged_configs
from jaxrl_llm.config.yaml_source import to_yaml
from jaxrl_llm.reject.config import resolve_any

GOLDEN = Path(__file__).parent.parent / "golden" / "configs"
NAMES = sorted(
    path.relative_to(packaged_configs()).with_suffix("").as_posix()
    for path in packaged_configs().rglob("*.yaml")
    if path.parent.name != "pipelines"
)


def flat(name: str) -> str:
    return "".join(f"{key}: {to_yaml(value)}\n" for key, value in flatten(resolve_any(name).config).items())


@pytest.mark.parametrize("name", NAMES)
def test_config_is_as_recorded(name: str) -> None:
    recorded = GOLDEN / f"{name}.txt"
    assert recorded.is_file(), f"{recorded} is missing: python -m tests.config.test_golden writes it"
    assert flat(name) == recorded.read_text(encoding="utf-8"), "python -m tests.config.test_golden records the change"


def test_nothing_is_recorded_of_configs_that_are_gone() -> None:
    assert {path.relative_to(GOLDEN).with_suffix("").as_posix() for path in GOLDEN.rglob("*.txt")} <= set(NAMES)


if __name__ == "__main__":
    for old in GOLDEN.rglob("*.txt"):
        old.unlink()
    for config in NAMES:
        target = GOLDEN / f"{config}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(flat(config), encoding="utf-8")
    print(f"{len(NAMES)} written to {GOLDEN}")
