"""What a user may mistype or feed: one message that says what, where and how to mend it; exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.errors import UserError
from jaxrl_llm.saved import Card
from tests.launcher import write_config

Train = Callable[..., str]
PPO = [
    *("algo.kind=ppo", "data={kind: prompts, task: {kind: arithmetic}}", "rollout.rewards.parts.grade.kind=task"),
    *("rollout.prompts=4", "rollout.n=2", "rollout.max_new_tokens=16"),
]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """refused("a.b=c", ...) -> the message of `train` with these overrides, which must leave no run directory."""
    config = write_config(tmp_path)

    def train(*overrides: str, code: int = 2) -> str:
        assert main(["train", str(config), "mesh.data=8", *overrides]) == code
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert "Traceback" not in message
        assert len(message.splitlines()) < 20
        assert not (tmp_path / "run").exists()
        return message

    return train


def test_unknown_and_mistyped_keys(refused: Train) -> None:
    assert "did you mean training.steps" in refused("training.stpes=5")
    assert "expected a whole number" in refused("training.steps=many")
    assert "unknown kind 'adam'" in refused("optim.kind=adam")


def test_numbers_out_of_range(refused: Train) -> None:
    for override in ("seed=-1", "seed=4294967296", "model.head_dim=0", "training.steps=9999999999"):
        assert override.split("=")[0] in refused(override)


def test_names_that_results_could_not_be_told_apart_by(refused: Train, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        assert f"the name '{name}' is taken" in refused(f"eval.corpora.{name}.path={tmp_path}/text.txt")


def test_a_share_too_small_to_be_drawn(refused: Train, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    mix = f"data.mix={{a: {{path: {text}}}, b: {{path: {text}, weight: 1e-7}}}}"
    assert "data.mix.b.weight=1e-07" in refused("data.path=null", "data.holdout=0", mix)


def test_memory_that_is_not_there_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr("jaxrl_llm.stage.train", exhausted)
    assert main(["train", str(write_config(tmp_path))]) == 2
    message = capsys.readouterr().err
    assert "out of memory" in message
    assert "training.micro_batches" in message


def test_files_missing_empty_or_undecodable(refused: Train, tmp_path: Path) -> None:
    assert "nowhere.txt" in refused(f"data.path={tmp_path}/nowhere.txt")
    (tmp_path / "empty.txt").touch()
    assert "empty.txt" in refused(f"data.path={tmp_path}/empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9" * 100)
    assert "byte 3 (0xe9) is not UTF-8" in refused(f"data.path={tmp_path}/latin.txt")


def test_a_bad_row_is_named_by_file_and_line(refused: Train, tmp_path: Path) -> None:
    rows = [json.dumps({"text": "x" * 400})] * 9
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*rows, "{broken", *rows]))
    assert f"{path}:10: not a JSON row" in refused(f"data.path={path}")
    path.write_text("\n".join([*rows, '{"body": "y"}']))
    message = refused(f"data.path={path}")
    assert f"{path}:10" in message
    assert "body" in message


def test_a_corpus_shorter_than_a_batch(refused: Train, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("much too short a text")
    assert "shorter than one batch" in refused(f"data.path={tmp_path}/short.txt", "data.holdout=0")


def test_meshes_that_divide_neither_devices_nor_batch_nor_model(refused: Train) -> None:
    assert "does not match the 8 cpu device(s)" in refused("mesh.data=3", "mesh.fsdp=1")
    assert "training.batch_size=12" in refused("training.batch_size=12")
    assert "mesh.tensor=8 does not divide model.n_heads=4" in refused("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=8")
    wide = refused("mesh.data=1", "mesh.fsdp=2", "mesh.context=4", "model.d_model=60", "model.head_dim=16")
    assert "mesh.fsdp=2 x mesh.context=4 does not divide model.d_model=60\n  mend: a mesh.fsdp that does" in wide
    assert "eval.batch_size=3" in refused("eval.batch_size=3")


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("data.length=62", ["data.length=62"]),
        ("data.length=62", ["algo.kind=sft", "data={kind: chat, path: x, length: 62}"]),
        ("data.length=62", ["algo.kind=dpo", "data={kind: preferences, path: x, length: 62}"]),
        ("model.context=254", [*PPO, "model.context=254"]),
        ("data.pretrain_length=62", [*PPO, "algo.ptx_weight=1.0", "data.pretrain.path=x", "data.pretrain_length=62"]),
    ],
    ids=["text", "chat", "preferences", "rollouts", "ptx"],
)
def test_rows_that_cannot_be_cut_along_t(refused: Train, key: str, overrides: list[str]) -> None:
    """Said before data are opened; a lesser length is proposed."""
    message = refused("mesh.data=-1", "mesh.fsdp=1", "mesh.context=4", *overrides)
    name, length = key.split("=")
    assert f"mesh.context=4 does not divide {key}" in message
    assert f"mend: {name}={int(length) // 4 * 4}, or a mesh.context that does" in message


def test_a_tokenizer_larger_than_the_model(refused: Train) -> None:
    assert "mend: model.vocab_size=259 or more" in refused("model.vocab_size=200")


def test_a_tokenizer_file_that_is_none(refused: Train, tmp_path: Path) -> None:
    (tmp_path / "t.model").write_text("not a model")
    message = refused("tokenizer.kind=sentencepiece", f"tokenizer.path={tmp_path}/t.model")
    assert "not a SentencePiece model" in message


def test_run_directories_that_cannot_be_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    occupied = tmp_path / "papers"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("precious")
    assert main(["train", str(config), "mesh.data=8", f"workdir={occupied}"]) == 2
    assert "nothing there shall be overwritten" in capsys.readouterr().err
    assert [file.name for file in occupied.iterdir()] == ["thesis.tex"]
    assert main(["train", str(config), "mesh.data=8", f"workdir={occupied}/thesis.tex/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_init_from_nothing(refused: Train, tmp_path: Path) -> None:
    assert "no run" in refused(f"init_from={tmp_path}/nowhere")


def test_generate_refuses_what_means_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("--n", "0"): "--n must be at least 1",
        ("--temperature", "-1"): "--temperature must be 0 or more",
        ("--top-p", "1.5"): "--top-p must lie in (0, 1]",
        ("--prompts", f"{tmp_path}/none.txt"): "cannot be read",
        (): "there is no run",
    }.items():
        assert main(["generate", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_version_says_so() -> None:
    with pytest.raises(UserError, match="another version"):
        Card.from_json({"tokenizer": {"kind": "bytes"}})
