"""`plan`: a table, a file of figures, and one screen where something is wrong."""

import json
from pathlib import Path

import pytest

from jaxrl_llm.cli import main

CONFIG = """
workdir: run
model: {vocab_size: 64, d_model: 8, d_ff: 16, n_layers: 2, n_heads: 2, n_kv_heads: 1, context: 64}
data: {path: not_there.txt, length: 32}
training: {steps: 4, batch_size: 8}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)
    return tmp_path


def test_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "c.yaml", "--memory", "1GiB", "--json", "plan.json", "training.batch_size=16"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.split("\n"))) <= 100
    for text in ("weights, trained (float32)", "optimizer state", "activations kept", "fits: peak", "a checkpoint:"):
        assert text in out
    found = json.loads(Path("plan.json").read_text())
    assert (found["fits"], found["limit"], found["parameters"], found["try"]) == (True, 2**30, 2216, None)
    assert found["mesh"] == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    (weights,) = (line for line in found["lines"] if line["what"].startswith("weights"))
    assert weights["size"] == 4 * 2216
    assert not Path("run").exists()


def test_it_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "c.yaml", "--chip", "A10G", "model.preset=llama2-7b", "training.batch_size=64"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "does not fit: peak" in out
    assert "try: mesh.fsdp=" in out
    assert "such devices" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chip", "H1000"], "no such chip"),
        (["--memory", "lots"], "expected a size, as in 80GiB"),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--chip", "H100", "--compile"], "leave out --chip and --devices"),
        (["--json", "nowhere/plan.json"], "cannot be written"),
        (["training.batch_size=6"], "training.batch_size=6"),
        (["mesh.fsdp=3"], "does not match the 8 cpu device(s)"),
        (["model.d_modl=3"], "d_model"),
        (["init_from=nothing", "model={}"], "init_from=nothing is not there"),
    ],
)
def test_what_cannot_be_planned(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "c.yaml", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.split("\n")) < 12
