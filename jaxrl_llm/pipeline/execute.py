"""Running a pipeline: a process a stage, one at a time, until one fails, is stopped, or does not do what it should."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jaxrl_llm.errors import JaxrlError, Preempted, StorageFailed, UserError
from jaxrl_llm.pipeline import leftovers
from jaxrl_llm.pipeline.expectations import refuse_useless
from jaxrl_llm.pipeline.figures import figures_of, summary
from jaxrl_llm.pipeline.planning import Pipeline
from jaxrl_llm.pipeline.progress import Progress
from jaxrl_llm.pipeline.report import write_report
from jaxrl_llm.pipeline.stage import Stage
from jaxrl_llm.pipeline.view import View, make_view, say

POLL = 0.25  # seconds between two looks at a stage
TAIL = 12  # lines of a log that are shown of a stage that failed without a word
STOPPED = (Preempted.exit_code, 130)  # exit codes of a stage that was told to end


@dataclass
class Stop:
    """Signals that came while the pipeline ran."""

    received: list[int] = field(default_factory=list)
    child: subprocess.Popen | None = None

    def __call__(self, number: int, frame: Any) -> None:
        """The handler.  Ctrl-C reaches the child from the terminal by itself; a second one would cut its saving."""
        self.received.append(number)
        if self.child is not None and number == signal.SIGTERM:
            self.child.send_signal(number)


def execute(pipeline: Pipeline, verbose: bool = False) -> int:
    """Run what is not done, and write the report; the exit code of the first stage that fails, else 0.

    `verbose`: stages write to the terminal themselves.

    Raises:
        UserError: another process runs it; a stage did not leave what others read, or did not come to what is expected
            of it.
    """
    with _lock(pipeline.workdir) as lock, _signals() as stop:
        started = time.monotonic()
        try:
            with make_view(pipeline.stages, verbose) as view:
                code, problem = _stages(pipeline, view, stop, lock, verbose)
        except JaxrlError as error:
            say(f"report: {write_report(pipeline, str(error))}")
            raise
        except OSError as error:
            raise StorageFailed(
                f"{pipeline.workdir}: {error}\n  mend: make room, then start the same command again"
            ) from error
        if code == 0:
            n = len(pipeline.stages)
            say(f"{n} stage{'s' * (n != 1)} done in {time.monotonic() - started:.0f} s")
        say(f"report: {write_report(pipeline, problem)}")
    return code


def _stages(pipeline: Pipeline, view: View, stop: Stop, lock: int, verbose: bool) -> tuple[int, str | None]:
    """Exit code, and what went wrong."""
    _make_room(pipeline, view)
    for number, stage in enumerate(pipeline.stages):
        if stop.received:
            return 130, f"interrupted before stage {stage.name}"
        later = [other for other in pipeline.stages[number + 1 :] if not other.done()]
        if stage.done():
            view.skip(stage, _summary(stage))
        else:
            code = _run(stage, view, stop, lock, verbose)
            if code or stop.received:
                problem = f"stage {stage.name} {_end(code, stop)}"
                again = "the same command, without --redo," if pipeline.redo else "the same command"
                view.note(f"{problem}; {again} continues from here")
                return code or 130, problem
        refuse_useless(stage, later)
    return 0, None


def _make_room(pipeline: Pipeline, view: View) -> None:
    """Keep what runs anew under another name, the last stage first: no stage is done that read what is gone, however
    this ends, and the command without --redo continues."""
    for stage in reversed(pipeline.stages):
        if stage.name in pipeline.redo and stage.directory.exists():
            view.note(f"{stage.name}: the old directory is kept as {leftovers.set_aside(stage.directory)}")
            leftovers.finished(stage)


def _end(code: int, stop: Stop) -> str:
    """How a stage came to its end, for the reader."""
    if code == 0:
        return "is done, and the run was interrupted"
    if _was_told(code, stop):
        return "was stopped"
    return "was killed: did memory run out?" if code == 128 + signal.SIGKILL else f"failed with exit code {code}"


def _was_told(code: int, stop: Stop) -> bool:
    return code in STOPPED or bool(stop.received)


def _run(stage: Stage, view: View, stop: Stop, lock: int, verbose: bool) -> int:
    """One stage from its begin to its end; its exit code."""
    before, kept = leftovers.prepare(stage)
    if kept is not None:
        view.note(f"{stage.name}: what lay in its directory is kept as {kept}")
    view.begin(stage)
    log = stage.directory.parent / "logs" / f"{stage.name}.txt"
    log.parent.mkdir(exist_ok=True)
    begin, progress, saving = time.monotonic(), Progress(stage), False

    def look() -> None:
        nonlocal saving
        now = time.monotonic()
        if stop.received and stage.verb == "train" and not (saving or verbose):  # which says so itself
            saving = True
            view.note(f"{stage.name}: this step is finished and saved; Ctrl-C once more stops at once and loses it")
        view.look(stage, now - begin, progress.look(now), "stopping" if stop.received else "running")

    command = [sys.executable, "-m", "jaxrl_llm", *stage.arguments]
    with log.open("ab") as file:
        file.write(f"$ {stage.command}\n".encode())
        file.flush()
        since = file.tell()
        code = _child(command, None if verbose else file, lock, stop, look)
    seconds = before + time.monotonic() - begin
    if code == 0:
        stage.finish(seconds)
        leftovers.finished(stage)
        view.end(stage, "done", seconds, _summary(stage))
        return 0
    leftovers.cut_short(stage, seconds)
    failed, reached = not _was_told(code, stop), progress.look(time.monotonic())
    view.end(stage, "failed" if failed else "stopped", seconds, reached.text if reached.done else "")
    if failed and not verbose:
        view.note(f"{last_words(log, since)}\nall that it wrote: {log}")
    return code


def _child(command: list[str], out: BinaryIO | None, lock: int, stop: Stop, look: Callable[[], None]) -> int:
    """Run a child, which holds our lock while it lives; its exit code.  It never outlives us but when we are killed."""
    if stop.received:
        return 130
    own = {} if out is None else {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
    stop.child = child = subprocess.Popen(  # type: ignore[call-overload]  # of `own` mypy knows too little
        command, pass_fds=(lock,), env={**os.environ, "PYTHONUNBUFFERED": "1"}, **own
    )
    try:
        if signal.SIGTERM in stop.received:  # it came while there was nobody to pass it to
            child.send_signal(signal.SIGTERM)
        while True:
            try:
                code = child.wait(POLL)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                look()
    finally:
        stop.child = None
        if child.poll() is None:  # a fault of ours
            child.terminate()
            child.wait()


def last_words(log: Path, since: int) -> str:
    """The error message at the end of a log, or its last lines; only what was written since this byte."""
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().decode("utf-8", "replace").splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    first = errors[-1] if errors else max(0, len(lines) - TAIL)
    return "\n".join(lines[first:]) or "(it wrote nothing)"


def _summary(stage: Stage) -> str:
    found = figures_of(stage)
    return summary(found.before, found.after)


@contextlib.contextmanager
def _signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM are noted from here on, and acted on between stages."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[int]:
    """Hold WORKDIR/.lock; the kernel lets go of it however we and our child end."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written: {error.strerror}\n  mend: give another workdir=DIR") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{workdir} is in use by {file.read().strip() or 'another run'}, or by a stage that it started\n"
                "  mend: wait for it, or give another workdir=DIR"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield file.fileno()
