"""Pipelines: run in order, skipped when done, refused when changed, continued when broken."""

import fcntl
import json
import os
import re
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from tests.pipeline.stubs import AGAIN, ALL, CORPUS, STUB, TRAIN, log, stub


def test_stages_run_in_order_and_are_skipped_when_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml"]) == 0
    assert log() == ALL
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/3] corpus: jaxrl-llm data corpus runs/p/corpus/stories.jsonl"
    assert lines[1] == "[1/3] corpus: done in 0:00:00"
    assert lines[-3:] == ["report: runs/p/report.md", "try next:", "  jaxrl-llm generate runs/p/again"]
    assert json.loads(Path("runs/p/pretrain/.done.json").read_text())["inputs"]["config"]["training.steps"] == 5

    Path("runs/p/report.md").unlink()
    assert main(["run", "p.yaml"]) == 0
    assert log() == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["[1/3] corpus: done, skipped", "[2/3] pretrain: done, skipped", "[3/3] again: done, skipped"]
    assert Path("runs/p/report.md").exists()


def test_a_failing_stage_says_why_and_the_pipeline_continues_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fail").write_text("runs/p/pretrain ")
    assert main(["run", "p.yaml"]) == 7
    assert log() == ALL[:2]
    out = capsys.readouterr().out
    assert "\nerror: it is broken\nall that it wrote: runs/p/logs/pretrain.txt\n" in out
    assert "\nworking" not in out
    assert "stage pretrain failed with exit code 7; the same command continues from here" in out
    assert Path("runs/p/logs/pretrain.txt").read_text() == f"$ jaxrl-llm {TRAIN}\nworking\nerror: it is broken\n"
    Path("fail").unlink()
    assert main(["run", "p.yaml"]) == 0
    assert log() == ALL[1:]
    assert "error" not in capsys.readouterr().out


def test_verbose_lets_the_stages_write(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fail").write_text("runs/p/pretrain ")
    assert main(["run", "p.yaml", "--verbose"]) == 7
    out, err = capfd.readouterr()
    assert "working\n" in out
    assert err == "error: it is broken\n"


def test_overrides_and_workdir(here: Path) -> None:
    assert main(["run", "p.yaml", "again.training.steps=9", "workdir=q"]) == 0
    assert log()[2] == "train train.yaml workdir=q/again data.path=other.txt init_from=q/pretrain training.steps=9"


def test_a_changed_stage_is_refused_and_redone_with_all_that_read_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", "p.yaml"])
    log()
    assert main(["run", "p.yaml", "pretrain.training.steps=6"]) == 2
    assert log() == []
    message = capsys.readouterr().err
    assert (
        "stage pretrain was finished with other settings:\n    training.steps: 5 -> 6\n  mend: --redo pretrain"
        in message
    )
    assert "stage again was finished with other settings:\n    it reads another pretrain" in message

    Path("runs/p/pretrain/weights").write_text("old")
    assert main(["run", "p.yaml", "pretrain.training.steps=6", "--redo", "pretrain"]) == 0
    assert log() == [TRAIN + " training.steps=6", AGAIN]
    assert Path("runs/p/pretrain.1/weights").read_text() == "old"
    assert not Path("runs/p/pretrain/weights").exists()
    assert not Path("runs/p/corpus.1").exists()


def test_a_redo_that_was_cut_short_continues_without_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "p.yaml"])
    Path("fail").write_text("runs/p/pretrain ")
    assert main(["run", "p.yaml", "--redo", "pretrain"]) == 7
    assert "the same command, without --redo, continues from here" in capsys.readouterr().out
    assert not Path("runs/p/again").exists(), "it was made of what is gone"
    Path("fail").unlink()
    log()
    assert main(["run", "p.yaml"]) == 0
    assert log() == [TRAIN, AGAIN]
    assert {path.name for path in Path("runs/p").glob("*.*")} == {
        "pretrain.1",
        "again.1",
        "report.md",
        "report.json",
    } | {".lock"}


def test_dry_run_touches_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml", "--dry-run"]) == 0
    assert not Path("runs").exists()
    assert log() == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["corpus", "to", "run", "jaxrl-llm", *CORPUS.split()]
    assert [line[:1] for line in lines[3:]] == [["memory"], ["pretrain"], ["again"]]
    assert lines[4][2:6] == ["KiB", "a", "device", "in"]
    # `again` starts from a model that is not there yet, and needs as much.
    assert lines[5][1:] == lines[4][1:]


def test_dry_run_tells_what_changed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "p.yaml"])
    capsys.readouterr()
    assert main(["run", "p.yaml", "--dry-run"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["done"] * 3
    assert main(["run", "p.yaml", "--dry-run", "again.seed=1"]) == 2
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()[:3]] == ["done", "done", "changed"]
    assert "seed: 0 -> 1" in err


def test_a_second_run_is_refused_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/p").mkdir(parents=True)
    with Path("runs/p/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 77 on host")
        lock.flush()
        assert main(["run", "p.yaml"]) == 2
        assert not Path("runs/p/report.md").exists()
    assert "runs/p is in use by process 77 on host" in capsys.readouterr().err
    assert log() == []
    assert main(["run", "p.yaml"]) == 0


def test_the_stage_holds_the_lock_while_it_lives(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that is killed leaves a child behind; nobody may start a second one beside it."""
    stub(STUB.replace("shift 2", "ls -l /proc/self/fd > fds; shift 2"), monkeypatch)
    assert main(["run", "p.yaml"]) == 0
    assert "runs/p/.lock" in Path("fds").read_text()


def test_sigterm_reaches_the_stage_and_its_exit_code_us(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "for i in $(seq 300); do sleep .01; done"
    stub(f"#!/bin/sh\ntrap 'echo saved >> log; exit 42' TERM\nkill -TERM $PPID\n{wait}\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 42
    assert log() == ["saved"]
    out = capsys.readouterr().out
    assert "[1/3] corpus: stopped after 0:00:00" in out
    assert "stage corpus was stopped; the same command continues" in out


def test_ctrl_c_during_a_stage_that_finishes_stops_after_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub("#!/bin/sh\nkill -INT $PPID\necho x >> log\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 130
    assert log() == ["x"]
    assert Path("runs/p/corpus/.done.json").exists()


def test_a_killed_stage(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stub("#!/bin/sh\nkill -9 $$\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 137
    assert "stage corpus was killed: did memory run out?; the same command" in capsys.readouterr().out


def test_ctrl_c_in_training_says_what_a_second_one_does_and_how_far_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = '{"step": 3, "split": "train", "loss": 0.5}'
    wait = "for i in $(seq 40); do sleep .01; done"
    work = f"echo '{step}' > runs/p/pretrain/metrics.jsonl; kill -INT $PPID; {wait}; exit 42"
    stub(STUB.replace("shift 2", f"shift 2; case $1 in train) {work};; esac"), monkeypatch)
    assert main(["run", "p.yaml"]) == 42
    out = capsys.readouterr().out
    assert out.count("pretrain: this step is finished and saved; Ctrl-C once more stops at once and loses it") == 1
    assert re.search(r"pretrain: stopped after 0:00:0\d  3 of 5 steps, loss 0.500\n", out)
    assert "stage pretrain was stopped; the same command continues from here" in out


def test_what_a_stage_did_not_leave_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(STUB.replace('echo x > "$3"', ":"), monkeypatch)
    assert main(["run", "p.yaml"]) == 2
    message = "stage pretrain reads runs/p/corpus/stories.jsonl, which stage corpus did not leave (p.yaml:9: data.path)"
    assert message in capsys.readouterr().err
    assert log() == ALL[:1]
    assert main(["run", "p.yaml"]) == 2  # and it is no less so when it is skipped
    assert log() == []
    Path("runs/p/corpus/stories.jsonl").write_text("made by hand")
    assert main(["run", "p.yaml"]) == 0


def test_files_that_nobody_will_read_may_be_gone(here: Path) -> None:
    assert main(["run", "p.yaml"]) == 0
    Path("runs/p/corpus/stories.jsonl").unlink()
    assert main(["run", "p.yaml"]) == 0


def test_what_a_finished_stage_has_read_may_be_gone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml"]) == 0
    Path("other.txt").unlink()
    assert main(["run", "p.yaml"]) == 0
    capsys.readouterr()
    assert main(["run", "p.yaml", "--redo", "pretrain"]) == 2  # which runs `again` again
    assert "stage again: data.path=other.txt: is not there" in capsys.readouterr().err
    assert not Path("runs/p/pretrain.1").exists()


def test_redo_wants_a_stage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml", "--redo", "corups"]) == 2
    assert "--redo corups: there is no such stage, did you mean 'corpus'?" in capsys.readouterr().err


def test_real_processes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(here)
    root = str(Path(__file__).parent.parent.parent)
    monkeypatch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))
    Path("r.yaml").write_text(
        "workdir: r\nstages: {show: {verb: config show, config: train.yaml, set: {data.path: x}}}"
    )
    assert main(["run", "r.yaml"]) == 0
    assert "\nworkdir           r/show  command line\n" in Path("r/logs/show.txt").read_text()
    Path("r.yaml").write_text("workdir: r\nstages: {bad: {verb: config show, args: [nowhere]}}")
    assert main(["run", "r.yaml"]) == 2
