"""A run as a user has it: train, look, generate, train on; in one process, on eight devices."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

import jaxrl_llm
from jaxrl_llm.cli import main
from jaxrl_llm.data import chat
from jaxrl_llm.data.streaming import Detokenizer
from jaxrl_llm.data.tokenizers import tokenizer_from_json
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.launcher import rows, write_config

MESH = ["mesh.data=2", "mesh.fsdp=2", "mesh.context=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    assert main(["train", str(write_config(folder)), *MESH, "logging.tensorboard=true"]) == 0
    return folder / "run"


def test_the_run_directory_holds_what_was_promised(run: Path) -> None:
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "samples.jsonl", "report.md", "report.json", "plots"} <= {
        file.name for file in run.iterdir()
    }
    assert list((run / "tensorboard").iterdir())
    assert (run / "plots" / "loss.png").stat().st_size > 10_000
    train = rows(run)
    assert {"loss", "grad_norm", "lr", "tokens_per_s", "tflops", "step_ms", "data_wait_ms", "memory_gib"} <= {
        *train[-1]
    }
    assert train[-1]["loss"] < train[0]["loss"] - 1
    assert train[-1]["tokens"] == 24 * 8 * 32


def test_a_checkpoint_holds_all_that_belongs_to_it_in_one_commit(run: Path) -> None:
    checkpoints = Checkpoints(run, None)
    assert checkpoints.steps() == [20, 24]
    record = checkpoints.run_json(24)
    assert yaml.safe_load(record["config"]) == yaml.safe_load((run / "config.yaml").read_text())
    assert tokenizer_from_json(record["tokenizer"]).vocab_size == 259
    assert record["source"]["position"] == 24
    assert {"params", "opt_state", "run"} <= {item.name for item in (run / "checkpoints" / "24").iterdir()}


def test_evaluation_is_the_mean_over_every_held_out_token(run: Path) -> None:
    """Against the model's own logits over the text, window by window, and the bytes of the text."""
    opened = jaxrl_llm.load(run)
    text = (run.parent / "text.txt").read_text()
    held_out = text[int(len(text) * 0.8) :]
    ids = np.asarray(opened.tokenizer.encode_document(held_out))
    nll, t = 0.0, 32
    n_rows = math.ceil((len(ids) - 1) / t)
    padded = np.pad(ids, (0, n_rows * t + 1 - len(ids)))
    inputs, targets = padded[:-1].reshape(n_rows, t), padded[1:].reshape(n_rows, t)
    logp = jax.nn.log_softmax(jax.jit(opened.model.logits)(opened.params, inputs))
    real = np.arange(n_rows * t).reshape(n_rows, t) < len(ids) - 1
    nll = -np.take_along_axis(np.asarray(logp), targets[..., None], -1)[..., 0][real]
    last = rows(run, "validation")[-1]
    assert last["tokens"] == len(ids) - 1
    assert last["loss"] == pytest.approx(nll.mean(), rel=1e-5)
    assert last["bits_per_byte"] == pytest.approx(nll.sum() / math.log(2) / len(held_out.encode()), rel=1e-5)
    assert last["perplexity"] == pytest.approx(math.exp(nll.mean()), rel=1e-5)


def test_the_saved_config_is_whole_and_starts_the_same_run(run: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["training"] == {"steps": 24, "batch_size": 8, "micro_batches": 1, "ema": None, "log_every": 1}
    again = tmp_path / "again"
    assert main(["train", str(run / "config.yaml"), f"workdir={again}"]) == 0
    assert [row["loss"] for row in rows(again)] == [row["loss"] for row in rows(run)]


def test_generate_is_the_same_for_the_same_seed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def generate(*args: str) -> list[dict]:
        out = tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        assert main(["generate", str(run), "--max-new-tokens", "12", "--out", str(out), *args]) == 0
        return [json.loads(line) for line in out.read_text().splitlines()]

    first = generate("--prompt", "The square", "--n", "3", "--seed", "1")
    assert [row["prompt"] for row in first] == ["The square"] * 3
    assert len({row["completion"] for row in first}) == 3
    assert generate("--prompt", "The square", "--n", "3", "--seed", "1") == first
    assert generate("--prompt", "The square", "--n", "3", "--seed", "2") != first
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "The square"}\n{"prompt": "and"}\n')
    greedy = generate("--prompts", str(prompts), "--temperature", "0")
    assert greedy[:1] == generate("--prompt", "The square", "--temperature", "0")
    assert main(["generate", str(run), "--prompt", "x", "--out", str(prompts)]) == 2  # nothing is overwritten
    assert main(["generate", str(run), "--prompt", "x" * 300]) == 2
    assert "exceeds the model's context of 256" in capsys.readouterr().err


def test_chat_keeps_the_dialogue_and_ctrl_c_stops_the_answer_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Hello", "/what", "again", "/reset", "Hello", "Stop me", "still here?", "x" * 300])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, None) or (_ for _ in ()).throw(EOFError()))
    asked: list[list[str]] = []
    tokenize = chat.tokenize_prompt

    def spy(tokenizer: Any, template: Any, messages: Any) -> list[int]:
        asked.append([message["content"] for message in messages])
        return tokenize(tokenizer, template, messages)

    push = Detokenizer.push

    def interrupted(self: Detokenizer, token: int) -> str:
        if asked[-1][-1] == "Stop me":
            raise KeyboardInterrupt
        return push(self, token)

    monkeypatch.setattr(chat, "tokenize_prompt", spy)
    monkeypatch.setattr(Detokenizer, "push", interrupted)
    assert main(["chat", str(run), "--max-new-tokens", "8", "--template", "plain", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "/what is no command" in out
    assert "(a new dialogue)" in out
    assert "(stopped)" in out
    assert "the dialogue has" in out  # too long for the model: said, and the dialogue goes on
    assert [len(messages) for messages in asked] == [1, 3, 1, 3, 5, 7]
    assert asked[1][0] == "Hello"
    assert asked[1][1] == asked[3][1] != ""  # the same question and seed, the same answer; it is part of what is asked


def test_training_on_starts_where_the_run_ended(run: Path, tmp_path: Path) -> None:
    """init_from takes weights, model and tokenizer; with init_optimizer also the moments; the schedule starts anew."""
    config = write_config(tmp_path, "next", text=run.parent / "text.txt")
    config.write_text(config.read_text().replace("model: {preset: debug, n_layers: 2}\n", f"init_from: {run}\n"))
    for optimizer in ("false", "true"):
        at = tmp_path / optimizer
        overrides = [f"workdir={at}", f"init_optimizer={optimizer}", "training.steps=2", "schedule.warmup=0"]
        assert main(["train", str(config), *MESH, *overrides]) == 0
        assert rows(at, "validation")[0]["loss"] == pytest.approx(rows(run, "validation")[-1]["loss"], rel=1e-6)
        assert rows(at)[0]["lr"] == pytest.approx(3e-3)
    fresh, kept = (rows(tmp_path / name)[-1]["loss"] for name in ("false", "true"))
    assert fresh != kept


def test_weights_of_another_shape_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, "next", text=run.parent / "text.txt")
    assert main(["train", str(config), *MESH, f"init_from={run}", "model.n_layers=1"]) == 2
    assert "model.n_layers: 2 there, 1 here" in capsys.readouterr().err


def test_a_run_is_not_continued_by_another_config(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run.parent / "run.yaml"
    assert main(["train", str(config), *MESH, "seed=9", "schedule.lr=1.0", "training.steps=30"]) == 2
    message = capsys.readouterr().err
    assert "seed: 3 there, 9 here" in message
    assert "training.steps" not in message  # more steps are no other run


def test_a_config_that_failed_before_the_first_checkpoint_may_be_mended(run: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    overrides = [*MESH, f"init_from={run}", "init_optimizer=true", "training.steps=2"]
    assert main(["train", str(config), *overrides, "optim.kind=muon"]) == 2  # the run's is adamw
    assert main(["train", str(config), *overrides]) == 0


def test_a_resumed_run_needs_init_from_no_more(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(run, source)
    config = write_config(tmp_path)
    overrides = [*MESH, f"init_from={source}"]
    assert main(["train", str(config), *overrides, "training.steps=2"]) == 0
    shutil.rmtree(source / "checkpoints")
    assert main(["train", str(config), *overrides, "training.steps=3"]) == 0


def test_data_that_changed_stop_a_resumed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    assert main(["train", str(config), *MESH, "training.steps=2"]) == 0
    (tmp_path / "text.txt").write_text("Another text altogether. " * 2000)
    assert main(["train", str(config), *MESH, "training.steps=4"]) == 2
    assert "the data changed since the checkpoint" in capsys.readouterr().err


def test_divergence_ends_with_3_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    overrides = ["schedule.lr=1e30", "optim.clip=null", "checkpoint.every=1"]
    assert main(["train", str(config), *MESH, *overrides]) == 3
    assert "of step 2 is nan; nothing more was saved" in capsys.readouterr().err
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jaxrl_llm.load(folder).params))


def test_domains_are_evaluated_each_by_itself(run: Path, tmp_path: Path) -> None:
    """A mixture with replay; a further corpus that is only evaluated; the report's table of what was forgotten."""
    (tmp_path / "new.txt").write_text("Ein ganz anderer Text, auf Deutsch geschrieben. " * 300)
    (tmp_path / "other.txt").write_text("1 2 3 4 5 6 7 8 9 " * 60)
    config = write_config(tmp_path, "mix", text=run.parent / "text.txt")
    text = config.read_text().replace(f"path: {run.parent / 'text.txt'}, holdout: 0.2, ", "")
    config.write_text(text + f"init_from: {run}\n")
    overrides = [
        f"data.mix={{old: {{path: {run.parent / 'text.txt'}, weight: 0.25, holdout: 0.2}}, "
        f"new: {{path: {tmp_path / 'new.txt'}, weight: 0.75, holdout: 0.2}}}}",
        f"eval.corpora.other.path={tmp_path / 'other.txt'}",
        "training.steps=8",
        "eval.max_rows=11",
        "eval.batch_size=16",
    ]
    assert main(["train", str(config), *MESH, *overrides]) == 0
    report = json.loads((tmp_path / "mix" / "report.json").read_text())
    assert set(report["evals"]) == {"old", "new", "other"}
    new = rows(tmp_path / "mix", "new")
    assert new[-1]["tokens"] == 11 * 32  # not a whole batch
    assert new[-1]["loss"] < new[0]["loss"]
    assert "Before and after" in (tmp_path / "mix" / "report.md").read_text()


def test_bench_measures_the_step_that_train_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    assert main(["bench", "train", str(config), *MESH, "--steps", "2"]) == 0
    table = capsys.readouterr().out
    for label in ("tokens/s", "TFLOP/s", "share of peak", "memory", "compile", "first step"):
        assert label in table
    assert main(["bench", "loop", str(config), *MESH, "--steps", "5", "logging.quiet=true"]) == 0
    assert "ms over 4 steps that do nothing" in capsys.readouterr().out
