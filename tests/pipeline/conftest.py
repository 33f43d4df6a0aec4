"""A pipeline in the working directory whose stages do nothing."""

from pathlib import Path

import pytest

from tests.pipeline.stubs import MODEL, PIPELINE, STUB, stub


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """p.yaml, and the config of its stages."""
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PIPELINE)
    Path("train.yaml").write_text(f"workdir: none\nmodel: {MODEL}\ndata: {{length: 64}}\n")
    Path("other.txt").write_text("other")
    stub(STUB, monkeypatch)
    return tmp_path
