"""`init_from` brings model and tokenizer along."""

from pathlib import Path

import pytest

from jaxrl_llm.config import resolve, save

BASE = "workdir: {run}\nmodel: {{preset: debug, n_layers: 3}}\ntokenizer: {{kind: sentencepiece, path: t.model}}\n"
NEXT = "workdir: other\ninit_from: {source}\ndata: {{path: x.txt, length: 128}}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "base.yaml").write_text(BASE.format(run=run) + "data: {path: x.txt, length: 64}\n")
    save(resolve(tmp_path / "base.yaml"), run / "config.yaml")
    return run


@pytest.mark.parametrize("where", ["", "checkpoints/5"])
def test_model_and_tokenizer_are_those_of_the_run(run: Path, where: str) -> None:
    (run.parent / "next.yaml").write_text(NEXT.format(source=run / where))
    resolved = resolve(run.parent / "next.yaml")
    assert (resolved.config.model.preset, resolved.config.model.n_layers) == ("debug", 3)
    assert resolved.config.tokenizer.kind == "sentencepiece"
    assert resolved.provenance["model.n_layers"] == f"init_from {run / where}"
    assert resolved.config.data.length == 128  # nothing else comes along


def test_own_keys_lie_above_and_another_preset_starts_anew(run: Path) -> None:
    (run.parent / "next.yaml").write_text(NEXT.format(source=run))
    assert resolve(run.parent / "next.yaml", ["model.n_layers=5"]).config.model.n_layers == 5
    assert resolve(run.parent / "next.yaml", ["model.preset=15m"]).config.model.n_layers == 6
