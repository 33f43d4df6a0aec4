"""What a stage left that was cut short: gone on with, removed where it is surely ours, kept where it is not."""

from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from tests.pipeline.stubs import ALL, STUB, TRAIN, log, stub

CORPUS = Path("runs/p/corpus")


@pytest.fixture
def broken(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stage `corpus` was cut short, and left half a file and a link."""
    Path("precious.txt").write_text("mine")
    half = "mkdir runs/p/corpus/deep; echo half > runs/p/corpus/deep/x; ln -s $PWD/precious.txt runs/p/corpus/link"
    stub(f"#!/bin/sh\n{half}\nexit 3\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 3
    stub(STUB, monkeypatch)
    return here


def everything() -> set[str]:
    return {str(path.relative_to("runs/p")) for path in Path("runs/p").rglob("*") if "corpus" in str(path)}


def test_it_is_removed_where_it_is_ours(broken: Path) -> None:
    assert (CORPUS / "deep/x").exists()
    assert main(["run", "p.yaml"]) == 0
    assert log() == ALL
    assert everything() == {"corpus", "corpus/stories.jsonl", "corpus/.done.json", "logs/corpus.txt"}
    assert Path("precious.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["added", "changed"])
def test_what_somebody_put_there_is_kept(broken: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    (CORPUS / ("deep/x" if what == "changed" else "mine")).write_text("by hand")
    assert main(["run", "p.yaml"]) == 0
    kept = Path("runs/p/corpus.1") / ("deep/x" if what == "changed" else "mine")
    assert kept.read_text() == "by hand"
    assert "corpus: what lay in its directory is kept as runs/p/corpus.1" in capsys.readouterr().out
    assert not (CORPUS / "deep").exists()


def test_what_was_there_before_is_kept(here: Path) -> None:
    CORPUS.mkdir(parents=True)
    (CORPUS / "old").write_text("old")
    assert main(["run", "p.yaml"]) == 0
    assert Path("runs/p/corpus.1/old").read_text() == "old"


def test_of_a_pipeline_that_was_killed_nobody_knows_whose_files_they_are(broken: Path) -> None:
    Path("runs/p/.corpus.begun.json").write_text('{"seconds": 0}')  # as it is while the stage runs
    assert main(["run", "p.yaml"]) == 0
    assert Path("runs/p/corpus.1/deep/x").exists()


def test_training_goes_on_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(
        STUB.replace("shift 2", "shift 2; case $1 in train) echo 1 >> runs/p/pretrain/steps; sleep .2; exit 42;; esac"),
        monkeypatch,
    )
    assert main(["run", "p.yaml"]) == 42
    assert main(["run", "p.yaml"]) == 42
    stub(STUB, monkeypatch)
    log()
    assert main(["run", "p.yaml"]) == 0
    assert log()[0] == TRAIN
    assert Path("runs/p/pretrain/steps").read_text() == "1\n1\n"
    done = Path("runs/p/pretrain/.done.json").read_text()
    seconds = float(done.partition('"seconds": ')[2].partition(",")[0])
    assert 0.4 <= seconds < 5, "all three parts count"
