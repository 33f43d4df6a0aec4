"""`run PIPELINE`: several stages in order, each a process of its own."""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import print_table

if TYPE_CHECKING:
    from jaxrl_llm.pipeline import Pipeline, Stage

HELP = """Run the stages of a pipeline in order, each in a directory of its own below the workdir.
What is done is skipped, so after an interruption the same command continues.
Every config is checked before anything runs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("pipeline", metavar="PIPELINE", help="a YAML file, or a name such as pipelines/quickstart")
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="workdir=DIR, or STAGE.a.b=value for a stage's config"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, run nothing")
    parser.add_argument(
        "--redo", metavar="STAGE", action="append", default=[], help="run this stage anew, and all that read it"
    )


def run(args: argparse.Namespace) -> int:
    """Plan, then run; at the end say what to look at."""
    from rich.console import Console

    from jaxrl_llm.pipeline import plan, refuse_changed, to_redo

    console = Console(highlight=False)

    def say(line: str, style: str = "bold") -> None:
        console.print(line, style=style, markup=False, soft_wrap=True)

    pipeline = plan(args.pipeline, args.overrides)
    redo = to_redo(pipeline, args.redo)
    refuse_changed(pipeline, redo)
    if args.dry_run:
        done = {stage.name for stage in pipeline.stages if stage.done()} - redo
        print_table(
            (stage.name, "done" if stage.name in done else "to run", stage.command) for stage in pipeline.stages
        )
        return 0
    code = execute(pipeline, redo, say)
    if code == 0:
        reports = [stage.directory / "report.md" for stage in pipeline.stages]
        for line in [f"report: {report}" for report in reports if report.exists()]:
            say(line, style="")
        for line in ["try next:", *(f"  {line}" for line in pipeline.next)] if pipeline.next else []:
            say(line, style="")
    return code


def execute(pipeline: "Pipeline", redo: set[str], say: Callable[[str], None]) -> int:
    """Run what is not done; the exit code of the first stage that fails, else 0."""
    with _lock(pipeline.workdir) as lock:
        started = time.monotonic()
        for number, stage in enumerate(pipeline.stages, 1):
            title = f"[{number}/{len(pipeline.stages)}] {stage.name}"
            if stage.name in redo and stage.directory.exists():
                say(f"{title}: the old directory is kept as {_set_aside(stage.directory)}")
            elif stage.done():
                say(f"{title}: done, skipped")
                continue
            say(f"{title}: {stage.command}")
            begin = time.monotonic()
            stage.directory.mkdir(parents=True, exist_ok=True)
            code, interrupted = _run([sys.executable, "-m", "jaxrl_llm", *stage.arguments], lock)
            if code == 0:
                _finish(stage, time.monotonic() - begin)
            if code or interrupted:
                state = f"ended with exit code {code}" if code else "is done, and the run was interrupted"
                say(f"stage {stage.name} {state}; the same command continues from here")
                return code or 130
        say(f"{len(pipeline.stages)} stages done in {time.monotonic() - started:.0f} s")
    return 0


def _set_aside(directory: Path) -> Path:
    number = 1
    while (kept := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    return directory.rename(kept)


def _finish(stage: "Stage", seconds: float) -> None:
    from jaxrl_llm.pipeline import DONE

    done = {"digest": stage.digest, "seconds": round(seconds, 1), "inputs": stage.inputs}
    partial = stage.directory / f"{DONE}.partial"
    partial.write_text(json.dumps(done, indent=1), encoding="utf-8")
    os.replace(partial, stage.directory / DONE)


def _run(command: list[str], lock: int) -> tuple[int, bool]:
    """A child that shares our terminal, and our lock while it lives: its exit code, and whether we were interrupted."""
    received: list[int] = []
    child: subprocess.Popen | None = None

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        # Ctrl-C reaches the child from the terminal by itself; a second one would cut its saving short.
        if child is not None and number == signal.SIGTERM:
            child.send_signal(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = subprocess.Popen(command, pass_fds=(lock,))
        if signal.SIGTERM in received:  # it came while there was nobody to pass it to
            child.send_signal(signal.SIGTERM)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code, bool(received)


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
