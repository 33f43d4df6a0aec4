"""How far a stage is, and what one sees of it."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich.console

from jaxrl_llm.pipeline import plan
from jaxrl_llm.pipeline.planning import Pipeline
from jaxrl_llm.pipeline.progress import Progress, Snapshot
from jaxrl_llm.pipeline.view import Lines, Screen


@pytest.fixture
def pipeline(here: Path) -> Pipeline:
    return plan("p.yaml", ["pretrain.training.steps=400"])


def write(rows: list[dict[str, Any]], torn: str = "") -> None:
    Path("runs/p/pretrain").mkdir(parents=True, exist_ok=True)
    with Path("runs/p/pretrain/metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + torn)


def test_progress_of_training(pipeline: Pipeline) -> None:
    progress = Progress(pipeline.stages[1])
    assert progress.look(0.0).text == "0 of 400 steps"
    task = {"split": "sums", "parsed": 1.0}
    write([{"step": 0, **task, "accuracy": 0.0}, {"step": 100, "split": "train", "loss": 0.5}], '{"step": 12')
    assert progress.look(10.0) == Snapshot(100, 400, "steps", None, "loss 0.500")
    write([], '0, "split": "train", "loss": 0.4}\n')  # the rest of the line
    found = progress.look(14.0)
    assert (found.done, found.left, found.figures) == (120, 4 / 20 * 280, "loss 0.400")
    write([{"step": 200, **task, "accuracy": 0.462}, {"step": 200, "split": "validation", "loss": 0.3, "bits": 1}])
    assert progress.look(20.0).text == "120 of 400 steps, 0:00:50 left, accuracy 0.0 -> 46.2 %  loss 0.300"


def test_progress_of_rollouts_and_of_a_run_that_goes_on(pipeline: Pipeline) -> None:
    progress = Progress(pipeline.stages[1])
    write([{"step": n, "split": "train", "loss": 9.0, "score": n / 100} for n in range(1, 31)])
    assert progress.look(1.0).text == "30 of 400 steps, reward 0.300"
    Path("runs/p/pretrain/metrics.jsonl").unlink()
    write([{"step": 10, "split": "train", "loss": 9.0, "score": 0.1}])  # what was past the checkpoint was cut off
    assert progress.look(2.0).text == "10 of 400 steps, reward 0.100"
    write([], "no json\n[]\n")
    assert progress.look(3.0).done == 10


def test_lines_come_now_and_then(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    view, stage = Lines(pipeline.stages), pipeline.stages[1]
    view.begin(stage)
    for seconds in (0.3, 29.9, 30.1, 45.0, 60.2):
        view.look(stage, seconds, Snapshot(seconds, 400, "steps", 61.0, "loss 0.5"))
    view.end(stage, "done", 75.2, "accuracy 0.0 -> 46.2 %")
    view.note("\x1b[2J")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[2/3] pretrain: jaxrl-llm train train.yaml")
    assert lines[1:] == [
        "[2/3] pretrain: 30 of 400 steps, 0:01:01 left, loss 0.5, after 0:00:30",
        "[2/3] pretrain: 60 of 400 steps, 0:01:01 left, loss 0.5, after 0:01:00",
        "[2/3] pretrain: done in 0:01:15  accuracy 0.0 -> 46.2 %",
        "\\x1b[2J",
    ]


def test_the_screen_shows_all_stages(pipeline: Pipeline) -> None:
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=True, width=80, color_system=None, _environ={})
    first, second, _ = pipeline.stages
    with Screen(pipeline.stages, console) as view:
        view.end(first, "done", 3.0, "")
        view.begin(second)
        out.truncate(0)
        view.look(second, 41.0, Snapshot(100, 400, "steps", 123.0, "accuracy 0.0 -> 46.2 % of something that is long"))
        drawn = re.sub(r"\x1b\[[\d?]*\w|\r", "", out.getvalue().lstrip("\0")).splitlines()
    assert drawn[0].split() == ["corpus", "done", "0:00:03"]
    assert drawn[1].split()[:3] == ["pretrain", "running", "0:00:41"]
    assert "25%  ETA 0:02:03  accuracy 0.0" in drawn[1]
    assert drawn[1].rstrip().endswith("…")
    assert all(len(line) <= 80 for line in drawn)
    assert drawn[2].split() == ["again", "to", "come"]
    assert out.getvalue().endswith("\x1b[?25h"), "the cursor is back"


PTY = """\
import sys
from jaxrl_llm.cli import main
sys.executable = "python-stub"
sys.exit(main(["run", "p.yaml"]))
"""


def test_on_a_terminal(here: Path) -> None:
    """One view, in which a stage fails; its last words stay, and the terminal is as it was."""
    Path("fail").write_text("runs/p/pretrain ")
    root = str(Path(__file__).parent.parent.parent)
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "100", "PATH": f"{here}:{os.environ['PATH']}"}
    command = [sys.executable if "stub" not in sys.executable else "python3", "-c", PTY]
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=env)
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    out = b"".join(chunks).decode()
    assert child.wait() == 7, out
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1
    text = re.sub(r"\x1b\[[\d;?]*\w", "", out).replace("\r\n", "\n").replace("\r", "\n")
    assert "error: it is broken\nall that it wrote: runs/p/logs/pretrain.txt\n" in text
    last = [line.split() for line in text.splitlines() if line][-4:]
    assert last == [["corpus", "done", "0:00:00"], ["pretrain", "failed", "0:00:00"], ["again", "to", "come"],
                    ["report:", "runs/p/report.md"]]  # fmt: skip
