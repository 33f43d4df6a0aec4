"""`python -m tests.reliability.audited LOG ARGS of jaxrl-llm`: what it writes, creates, renames or removes goes to LOG.

What C++ writes is not seen: that is the arrays of checkpoints, of which every process writes its own.
"""

import os
import sys
from pathlib import Path
from typing import Any

from jaxrl_llm.cli import main

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.")


def audit(log: str) -> None:
    """From now on; each thing once a line."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike) and isinstance(args[2], int):
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                note(os.fspath(args[0]))
        elif event.startswith(CHANGES):
            note(" ".join(os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | os.PathLike)))

    def note(what: str | bytes) -> None:
        os.write(file, os.fsencode(what) + b"\n")

    sys.addaudithook(hook)


def written(log: Path, below: Path) -> list[str]:
    """What of it is below a folder, and no part of a checkpoint."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if str(below) in line and "/checkpoints" not in line]


if __name__ == "__main__":
    audit(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
