"""Where finished stores are kept, and how one of several processes builds one while the others wait."""

import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrl_llm.errors import UserError


def cache_root(cache_dir: str | None) -> Path:
    """The directory itself, or for None $XDG_CACHE_HOME/jaxrl_llm or ~/.cache/jaxrl_llm."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrl_llm"


def read_meta(file: Path, what: str, version: int, mend: str) -> dict[str, Any]:
    """What a finished store says of itself in its meta.json, which is written last.

    Raises:
        UserError: it is not there, cannot be read, or is of another version; ends with `mend`.
    """
    try:
        meta = json.loads(file.read_text())
        if meta["version"] == version:
            return meta
    except FileNotFoundError:
        raise UserError(f"{file.parent}: not a finished {what} (it has no {file.name}){mend}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: unreadable: {error}{mend}") from error
    raise UserError(f"{file.parent}: made by version {meta['version']} of the store, not {version}{mend}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes a directory and has it alone; others wait.  The system frees the lock of a process that died."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}\n  mend: set data.cache_dir to where it can"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"waiting for {lock.read().strip()}, which builds {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def progress_bar(title: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar of `total` bytes on stderr, if that is a terminal; gives what advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)
