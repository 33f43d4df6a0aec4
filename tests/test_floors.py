"""Imports go downward through the floors, late ones inside functions too, and siblings on a floor are strangers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxrl_llm"
FLOORS = [
    {"errors", "schema", "types"},
    {"core", "tasks"},
    {"parallel"},
    {"models"},
    {"data", "algos", "rollout", "training"},
    {"evals"},
    {"config"},
    {
        "alike",
        "announce",
        "assemble",
        "begin",
        "benchmarks",
        "best_of_n",
        "datasets",
        "heldout",
        "random_data",
        "references",
        "rollouts",
        "score_scale",
        "saved",
        "scorers",
        "stage",
        "starting",
        "task_evaluation",
        "answering",
        "workdir",
        "evaluation",
        "eval_report",
        "eval_plots",
        "plots",
        "reject",
        "report",
        "pipeline",
        "plan",
        "verbs",
        "labelling",
        "cli",
        "__main__",
        "__init__",
    },
]
HOUSEMATES = FLOORS[0] | FLOORS[7]  # these may import their siblings
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms of the house that a file imports, wherever in the file; what the package itself says is nobody's."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("jaxrl_llm.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    here = room(path)
    assert here in FLOOR, f"{here} has no floor yet: add it to FLOORS"
    for other in imported(path) - {here}:
        assert other in FLOOR, f"{other} has no floor yet: add it to FLOORS"
        assert FLOOR[other] <= FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {other} (floor {FLOOR[other]})"
        assert FLOOR[other] < FLOOR[here] or {here, other} <= HOUSEMATES, f"{here} and {other} are siblings"


def test_late_imports_count(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "import jaxrl_llm.core.kl\nfrom jaxrl_llm import __version__, config\n"
        "def f():\n    from jaxrl_llm.verbs.train import run\n"
    )
    assert imported(path) == {"core", "config", "verbs"}
