"""Pipelines: checked whole, run in order, skipped when done, refused when changed, continued when broken."""

import fcntl
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.config.layers import packaged_configs
from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline import plan

PIPELINE = """\
workdir: runs/p
stages:
  corpus:
    verb: data corpus
    args: ["{corpus}/stories.txt"]
  pretrain:
    verb: train
    config: train.yaml
    set: {data.path: "{corpus}/stories.txt", training.steps: 5}
  again:
    verb: train
    config: train.yaml
    set: {data.path: other.txt, init_from: "{pretrain}"}
next:
  - jaxrl-llm generate {again}
"""

STUB = """\
#!/bin/sh
shift 2
echo "$@" >> log
case "$*" in *"$(cat fail 2>/dev/null || echo nothing)"*) exit 7;; esac
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline in the working directory, whose stages' python is a script that logs what it was asked to do."""
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PIPELINE)
    Path("train.yaml").write_text("workdir: none\ndata: {length: 64}\n")
    stub(STUB, monkeypatch)
    return tmp_path


def stub(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("python-stub").absolute()
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def log() -> list[str]:
    lines = Path("log").read_text().splitlines() if Path("log").exists() else []
    Path("log").unlink(missing_ok=True)
    return lines


TRAIN = "train train.yaml workdir=runs/p/pretrain data.path=runs/p/corpus/stories.txt training.steps=5"
AGAIN = "train train.yaml workdir=runs/p/again data.path=other.txt init_from=runs/p/pretrain"
ALL = ["data corpus runs/p/corpus/stories.txt", TRAIN, AGAIN]


def test_stages_run_in_order_and_are_skipped_when_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml"]) == 0
    assert log() == ALL
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/3] corpus: jaxrl-llm data corpus runs/p/corpus/stories.txt"
    assert lines[-2:] == ["try next:", "  jaxrl-llm generate runs/p/again"]
    assert json.loads(Path("runs/p/pretrain/.done.json").read_text())["inputs"]["config"]["training.steps"] == 5

    Path("runs/p/again/report.md").write_text("x")
    assert main(["run", "p.yaml"]) == 0
    assert log() == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["[1/3] corpus: done, skipped", "[2/3] pretrain: done, skipped", "[3/3] again: done, skipped"]
    assert "report: runs/p/again/report.md" in lines


def test_a_failing_stage_stops_the_pipeline_and_it_continues_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fail").write_text("runs/p/pretrain ")
    assert main(["run", "p.yaml"]) == 7
    assert log() == ALL[:2]
    assert "stage pretrain ended with exit code 7" in capsys.readouterr().out
    Path("fail").unlink()
    assert main(["run", "p.yaml"]) == 0
    assert log() == ALL[1:]


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


def test_dry_run_touches_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml", "--dry-run"]) == 0
    assert not Path("runs").exists()
    assert log() == []
    assert capsys.readouterr().out.splitlines()[0].split() == [
        *["corpus", "to", "run", "jaxrl-llm", "data", "corpus", "runs/p/corpus/stories.txt"]
    ]


def test_a_second_run_is_refused_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/p").mkdir(parents=True)
    with Path("runs/p/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 77 on host")
        lock.flush()
        assert main(["run", "p.yaml"]) == 2
    assert "runs/p is in use by process 77 on host" in capsys.readouterr().err
    assert log() == []
    assert main(["run", "p.yaml"]) == 0


def test_the_stage_holds_the_lock_while_it_lives(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that is killed leaves a child behind; nobody may start a second one beside it."""
    stub("#!/bin/sh\nls -l /proc/self/fd >> log\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 0
    assert any(line.endswith("runs/p/.lock") for line in log())


def test_sigterm_reaches_the_stage_and_its_exit_code_us(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "for i in $(seq 300); do sleep .01; done"
    stub(f"#!/bin/sh\ntrap 'echo saved >> log; exit 42' TERM\nkill -TERM $PPID\n{wait}\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 42
    assert log() == ["saved"]
    assert "stage corpus ended with exit code 42; the same command continues" in capsys.readouterr().out


def test_ctrl_c_during_a_stage_that_finishes_stops_after_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub("#!/bin/sh\nkill -INT $PPID\necho x >> log\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 130
    assert log() == ["x"]
    assert Path("runs/p/corpus/.done.json").exists()


def test_a_killed_stage(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub("#!/bin/sh\nkill -9 $$\n", monkeypatch)
    assert main(["run", "p.yaml"]) == 137


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("verb: train", "verb: trian", "p.yaml:7: stages.pretrain.verb: unknown verb 'trian', did you mean 'train'?"),
        (
            "config: train.yaml",
            "config: trian.yaml",
            "p.yaml:6: stage pretrain: trian.yaml: there is no such config file",
        ),
        ("training.steps: 5", "training.stps: 5", "p.yaml:6: stage pretrain: command line: training.stps: unknown key"),
        (
            '"{corpus}/stories.txt", t',
            '"{corups}/x", t',
            "p.yaml:6: stages.pretrain: {corups} is neither this stage nor one",
        ),
        ('{corpus}/stories.txt"]', '{pretrain}/x"]', "p.yaml:3: stages.corpus: {pretrain} is neither this stage nor"),
        ("{again}", "{agian}", "p.yaml:14: next: {agian} is no stage, did you mean 'again'?"),
        (
            "training.steps: 5",
            "workdir: x",
            "p.yaml:9: stages.pretrain.set: a stage's workdir is always WORKDIR/pretrain",
        ),
        ("  corpus:", "  cor pus:", "p.yaml:3: stages.cor pus: a stage's name is a directory"),
        ("workdir: runs/p", "wrkdir: x", "p.yaml:1: wrkdir: unknown key, did you mean workdir?"),
        ("args:", "agrs:", "p.yaml:5: stages.corpus.agrs: unknown key, did you mean stages.corpus.args?"),
        ("verb: data corpus", "verb: data corpus\n    set: {a: 1}", "p.yaml:5: stages.corpus.set: there is no config"),
    ],
)
def test_faults_are_found_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, fault: str
) -> None:
    assert old in PIPELINE
    Path("p.yaml").write_text(PIPELINE.replace(old, new, 1))
    assert main(["run", "p.yaml"]) == 2
    assert fault in capsys.readouterr().err
    assert log() == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("pretrian.seed=1", "stages.pretrian: there is no such stage to override, did you mean 'pretrain'?"),
        ("corpus.seed=1", "there is no config to override in this stage"),
        ("seed=1", "'seed=1' is no override of a pipeline"),
        ("pretrain.workdir=x", "a stage's workdir is always WORKDIR/pretrain"),
        ("pretrain.sede=1", "unknown key, did you mean seed or schedule?"),
        ("workdir=", "workdir= has no value"),
    ],
)
def test_bad_overrides(here: Path, override: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        plan("p.yaml", [override])
    assert fault in str(caught.value)


@pytest.mark.parametrize("path", sorted((packaged_configs() / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_pipelines_are_sound(path: Path) -> None:
    assert plan(path).stages


def test_redo_wants_a_stage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "p.yaml", "--redo", "corups"]) == 2
    assert "--redo corups: there is no such stage, did you mean 'corpus'?" in capsys.readouterr().err


def test_real_processes(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    Path("r.yaml").write_text(
        "workdir: r\nstages: {show: {verb: config show, config: train.yaml, set: {data.path: x}}}"
    )
    assert main(["run", "r.yaml"]) == 0
    assert "workdir      r/show  command line" in capfd.readouterr().out
    Path("r.yaml").write_text("workdir: r\nstages: {bad: {verb: config show, args: [nowhere]}}")
    assert main(["run", "r.yaml"]) == 2
