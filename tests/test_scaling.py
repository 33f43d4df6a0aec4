"""No large recipe without slices that it was compiled for."""

import runpy
from pathlib import Path

from jaxrl_llm.config import load
from jaxrl_llm.models.presets import PRESETS
from tests.config.test_golden import NAMES

SCRIPT = Path(__file__).parent.parent / "docs" / "make_scaling.py"
LARGE = {"llama2-7b", "llama2-70b", "llama3.1-8b"}


def test_every_large_recipe_is_in_the_table() -> None:
    assert PRESETS.keys() >= LARGE
    runs = runpy.run_path(str(SCRIPT))["RUNS"]
    stages = [name for name in NAMES if not name.startswith(("pipelines/", "reject/"))]
    assert {run[0] for run in runs} == {name for name in stages if load(name).model.preset in LARGE}
