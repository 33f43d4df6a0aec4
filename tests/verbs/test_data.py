"""`data corpus`, `data build` and `tokenizer train`, from the command line."""

import json
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.data.config import CorpusConfig, SentencePieceConfig
from jaxrl_llm.data.readers import read_documents
from jaxrl_llm.data.tokenizers import make_tokenizer
from jaxrl_llm.tasks import corpus


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "corpus.jsonl"
    assert main(["data", "corpus", str(path), "--documents", "200", "--seed", "3"]) == 0
    return path


def test_corpus_writes_the_generated_documents(generated: Path) -> None:
    rows = [json.loads(line) for line in generated.read_text().splitlines()]
    assert rows == [{"text": text} for text in corpus(200, seed=3)]
    assert [file.name for file in generated.parent.iterdir()] == ["corpus.jsonl"]


def test_corpus_overwrites_only_by_force(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = generated.read_bytes()
    command = ["data", "corpus", str(generated), "--documents", "10"]
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert generated.read_bytes() == before
    assert main([*command, "--force"]) == 0
    assert len(generated.read_text().splitlines()) == 10


@pytest.mark.parametrize(("out", "more"), [("x.jsonl", ["--documents", "0"]), ("file/x.jsonl", [])])
def test_corpus_refuses_what_cannot_be(
    tmp_path: Path, out: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["data", "corpus", str(tmp_path / out), *more]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_build_makes_every_store_and_index_of_a_config(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    cache = tmp_path / "cache"
    config.write_text(f"workdir: {tmp_path}/run\ndata: {{length: 64, holdout: 0.1, cache_dir: {cache}}}\n")
    arguments = ["data", "build", str(config), f"data.path={generated}", f"eval.corpora.other.path={generated}"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name, documents in (("data ", 180), ("data (holdout)", 20), ("other (eval)", 200)):
        assert any(line.startswith(name) and f" {documents} " in line for line in shown.splitlines())
    assert sorted(file.name for file in cache.glob("*/packing*")) == ["packing-concat-64"] * 3
    assert main(arguments) == 0
    assert capsys.readouterr().out == shown
    assert main(["data", "build", str(config), "data.path=nowhere.txt"]) == 2
    assert "nowhere.txt: no such file" in capsys.readouterr().err


def test_tokenizer_train(generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "models" / "x.model"
    command = ["tokenizer", "train", str(generated), "--out", str(out), "--vocab-size"]
    assert main([*command, "600"]) == 0
    shown = capsys.readouterr().out
    tokenizer = make_tokenizer(SentencePieceConfig(path=str(out)))
    texts = [document.text for document in read_documents(CorpusConfig(path=str(generated)))]
    ratio = len("".join(texts[:100]).encode()) / len(tokenizer.encode("".join(texts[:100])))
    assert f"{ratio:.2f} on" in shown
    assert ratio > 2
    before = out.read_bytes()
    assert main([*command, "700"]) == 2
    assert main([*command, "100000", "--force"]) == 2
    assert "at most" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "700", "--force", "--kind", "unigram"]) == 0
    assert make_tokenizer(SentencePieceConfig(path=str(out))).vocab_size == 700
