"""What the documents point at is there: files, and in Python files the functions and classes after the `#`."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = [
    pytest.param(page, target, id=f"{page.name}:{target}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")))
    if "://" not in target
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, name = target.partition("#")
    file = (page.parent / path).resolve()
    assert file.exists(), f"{page.name} links to {path}, which is not there"
    if file.suffix == ".py" and name:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in names, f"{page.name} links to {path}#{name}, which the file does not define"


def test_the_derivation_links_each_of_its_formulas() -> None:
    named = {target.partition("#")[2] for page, target in (p.values for p in LINKS) if page.name == "ppo.md"}  # type: ignore[misc]
    assert {"leave_one_out", "group_relative", "k1", "k3", "token_rewards", "gae", "whiten", "clipped"} <= named
    assert {"log_ratio", "value_loss", "proportional_coefficient", "doubling_coefficient"} <= named
