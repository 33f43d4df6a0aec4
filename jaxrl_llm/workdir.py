"""Directories that are written: who may write a run's, and how a new one becomes whole or is not there."""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from jaxrl_llm.config import flatten, save
from jaxrl_llm.config import load as load_config
from jaxrl_llm.errors import StorageFailed, UserError
from jaxrl_llm.training.writers import METRICS

CONFIG, LOCK = "config.yaml", "lock"

# Keys that may change when a run is continued: how, how long and how closely watched, not what is learned.
FREE = ("workdir", "mesh", "compute", "eval", "checkpoint", "logging", "training.steps", "training.log_every")
FREE_DATA = ("data.cache_dir", "data.workers", "data.prefetch")


def claim(
    workdir: Path,
    resolved: Any,
    load: Callable[[Path], Any] = load_config,
    free: Sequence[str] = FREE + FREE_DATA,
    *,
    keep: bool = False,
) -> None:
    """Make a run directory ours and write its config.yaml, or find the run there that is to be continued.

    Args:
        workdir: the directory.
        resolved: the config with its history.
        load: reads the config that is there.
        free: keys, and sections, that may have changed since.
        keep: leave the config.yaml of a run that goes on as it is.

    Raises:
        UserError: it cannot be written, is something else's, or holds the run of another config.
    """
    saved = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if has_checkpoint(workdir) or (workdir / METRICS).is_file():
            refuse_other_run(workdir, load(saved), resolved.config, free)
            if keep:
                return
        elif saved.is_file():  # a run that never began: its config may be mended
            pass
        elif any(workdir.iterdir()):
            raise UserError(
                f"{workdir} holds files but no run ({CONFIG} is not there), and nothing there shall be overwritten\n"
                "  mend: choose another workdir"
            )
        save(resolved, saved)
    except OSError as error:
        raise UserError(
            f"the run directory {workdir} cannot be written: {error.strerror}\n  mend: workdir=FOLDER"
        ) from error


def hold(workdir: Path) -> TextIO:
    """Have a run directory alone until the file that is returned is closed, or this process ends, however it ends.

    Raises:
        UserError: another command has it; says which process.
    """
    lock = (workdir / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            lock.seek(0)
            holder = lock.read().strip()
        raise UserError(
            f"{workdir}: {holder or 'another process'} works there already\n"
            "  mend: wait for its end, or workdir=ANOTHER"
        ) from None
    except OSError:  # a file system without locks
        return lock
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run there has come as far as a checkpoint."""
    folder = workdir / "checkpoints"
    return (
        (workdir / CONFIG).is_file() and folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir())
    )


def refuse_other_run(workdir: Path, before: Any, now: Any, free: Sequence[str] = FREE + FREE_DATA) -> None:
    """A UserError naming the keys in which a continued run would not be the one it was."""
    old, new = flatten(before), flatten(now)
    keys = [
        key
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not any(key == each or key.startswith(each + ".") for each in free)
    ]
    if keys:
        lines = [f"  {key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in keys[:12]]
        more = [f"  and {len(keys) - 12} more"] if len(keys) > 12 else []
        raise UserError(
            "\n".join([f"{workdir} holds a run of another config:", *lines, *more])
            + "\n  mend: workdir=ANOTHER starts a new run; the old config continues this one"
        )


def refuse_taken(out: Path) -> None:
    """A UserError where `out` is there and not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is there already, and shall not be overwritten\n  mend: name a new or empty folder")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well, and is gone when it does not.

    Raises:
        UserError: `out` is there and not empty, or cannot be made.
        StorageFailed: the disk gave up on the way.
    """
    refuse_taken(out)
    draft = Path(os.path.abspath(out)).with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}\n  mend: name another folder") from error
    try:
        yield draft
        os.replace(draft, out)
    except OSError as error:
        raise StorageFailed(f"{out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
