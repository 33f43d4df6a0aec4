"""Rows written, killed, resumed: each step once, every line valid JSON."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.errors import StorageFailed, UserError
from jaxrl_llm.training.writers import (
    JsonlWriter,
    TensorBoardWriter,
    append_sample,
    append_samples,
    open_writers,
    read_rows,
    truncate_after,
)


def strict(line: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_a_row_is_on_disk_at_once_and_is_plain_json(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path)
    writer.write(10, "train", {"loss": np.float32(0.5), "lr": jnp.float32(0.25), "tokens": 3, "grad_norm": math.nan})
    writer.write(10, "validation", {"loss": -math.inf})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # not closed: a kill may come now
    assert strict(lines[0]) == {"step": 10, "split": "train", "loss": 0.5, "lr": 0.25, "tokens": 3, "grad_norm": None}
    assert lines[0].startswith('{"step": 10, "split": "train"')
    assert '"tokens": 3,' in lines[0]
    assert strict(lines[1]) == {"step": 10, "split": "validation", "loss": None}


def test_floats_survive_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    writer = JsonlWriter(tmp_path)
    for step, value in enumerate(values):
        writer.write(step, "train", {"loss": value})
    writer = JsonlWriter(tmp_path, resumed=99)  # rewrites the file
    assert [np.float32(row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl")] == list(values)


def test_killed_and_resumed_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(tmp_path)
    for step in range(0, 50, 10):
        writer.write(step, "train", {"loss": float(step)})
        writer.write(step, "validation", {"loss": float(step)})
    with path.open("ab") as file:
        file.write('{"step": 50, "split": "Käse'.encode()[:-3])  # torn inside a character
    writer = JsonlWriter(tmp_path, resumed=20)
    writer.write(30, "train", {"loss": 7.0})
    rows = read_rows(path)
    assert [(row["step"], row["split"]) for row in rows] == [
        *((step, split) for step in (0, 10, 20) for split in ("train", "validation")),
        (30, "train"),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_whole_last_row_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "split": "train"}')
    writer = JsonlWriter(tmp_path, resumed=2)
    writer.write(3, "train", {})
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]


def test_a_fresh_start_clears_the_rows_of_a_run_that_saved_nothing(tmp_path: Path) -> None:
    JsonlWriter(tmp_path).write(0, "validation", {"loss": 5.0})
    JsonlWriter(tmp_path).write(0, "validation", {"loss": 5.0})
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1


def test_a_bad_line_is_named_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n["step"]\n{"step": 3}\n'
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: .*\n  mend: "):
        JsonlWriter(tmp_path, resumed=1)
    assert path.read_text() == text


def test_truncate_after_an_absent_file_makes_none(tmp_path: Path) -> None:
    truncate_after(tmp_path / "samples.jsonl", 5)
    assert not (tmp_path / "samples.jsonl").exists()


def test_samples_are_rows_too(tmp_path: Path) -> None:
    for step in (1, 2):
        append_sample(tmp_path, step, "To be", " or\u2028not \x1b")
    JsonlWriter(tmp_path, resumed=1)
    assert read_rows(tmp_path / "samples.jsonl") == [{"step": 1, "prompt": "To be", "completion": " or\u2028not \x1b"}]


def test_answers_with_rewards_are_rows_too_and_cut_like_them(tmp_path: Path) -> None:
    asked = ({"role": "user", "content": "Wie viel?\u2028"},)
    answers = [
        {"step": step, "round": step // 4, "prompt": asked, "completion": "#### 4", "reward": 0.1 + step,
         "parts": {"grade": 0.1 + step}, "ended": True, "tokens": [35, 52, 2]}
        for step in (1, 1, 5, 5)
    ]  # fmt: skip
    for _ in range(2):
        append_samples(tmp_path, answers)
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 1, "round"')  # torn by a kill
    JsonlWriter(tmp_path, resumed=4)
    append_samples(tmp_path, answers[2:])
    rows = read_rows(tmp_path / "samples.jsonl")
    assert [row["step"] for row in rows] == [1, 1, 1, 1, 5, 5]
    assert rows[-1] == answers[-1] | {"prompt": list(asked)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_refuses_samples_too(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageFailed, match=r"samples\.jsonl: No space left"):
        append_samples(tmp_path, [{"step": 1, "prompt": "a", "completion": "b"}])


def test_a_directory_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workdir"):
        JsonlWriter(tmp_path / "absent")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_failure(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path)
    writer._file.close()
    writer._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    with pytest.raises(StorageFailed, match="No space left"):
        writer.write(1, "train", {"loss": 1.0})


def events(logdir: Path) -> list[Any]:
    """All events of a directory's files: records of length (8 bytes), its checksum (4), data, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(logdir.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_events_and_their_purge(tmp_path: Path) -> None:
    for resumed in (None, 10):
        writer = TensorBoardWriter(tmp_path, resumed)
        writer.write(20, "train", {"loss": 1.5, "lr": 0.25})
        writer.close()
    found = events(tmp_path / "tensorboard")
    scalars = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert scalars == [(20, "train/loss", 1.5), (20, "train/lr", 0.25)] * 2
    starts = [e.step for e in found if e.HasField("session_log")]
    assert starts[-1] == 11  # the viewer forgets what came at step 11 and after


def test_tensorboard_needs_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from pathlib import Path; from jaxrl_llm.training.writers import TensorBoardWriter\n"
        "w = TensorBoardWriter(Path(sys.argv[1])); w.write(1, 'train', {'loss': 1.0}); w.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(events(tmp_path / "tensorboard")) >= 2


def test_wandb_missing_names_the_extra_and_cuts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    JsonlWriter(tmp_path).write(5, "train", {"loss": 1.0})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"jaxrl-llm\[wandb\]"):
        open_writers(tmp_path, wandb="project")
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1


def test_wandb_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []
    run = SimpleNamespace(log=lambda row, step: logged.append((row, step)), finish=lambda: None)

    def init(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    (tmp_path / "config.yaml").write_text("training: {steps: 5}\n")
    for resumed in (None, 10, None):
        writers = open_writers(tmp_path, resumed=resumed, tensorboard=False, wandb="house")
        for writer in writers:
            writer.write(11, "train", {"loss": 1.0})
            writer.close()
    assert logged[0] == ({"train/loss": 1.0}, 11)
    assert calls[0]["project"] == "house"
    assert calls[0]["config"] == {"training": {"steps": 5}}
    first, second, afresh = (call["id"] for call in calls)
    assert first == second != afresh


def test_metrics_jsonl_is_always_among_the_writers(tmp_path: Path) -> None:
    (writer,) = open_writers(tmp_path, tensorboard=False)
    assert isinstance(writer, JsonlWriter)
    assert {type(w) for w in open_writers(tmp_path)} == {JsonlWriter, TensorBoardWriter}
