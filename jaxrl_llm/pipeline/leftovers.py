"""What a stage left that was cut short, and what of it may be removed.

WORKDIR/.NAME.begun.json says that the pipeline began the stage in an empty directory, how long it has worked, and
which files were there when it ended badly.  A stage whose command does not go on with these (`Stage.resumes`) begins
anew: where the directory is still as it left it, it is removed; anything else, and all that somebody else put there,
is kept under another name.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl_llm.pipeline.stage import Stage

SECONDS, LEFT = "seconds", "left"


def prepare(stage: Stage) -> tuple[float, Path | None]:
    """Make the directory of a stage ready for its command; how long it has worked before, and what was set aside."""
    begun, kept = _read(stage), None
    if not stage.resumes and stage.directory.is_dir() and any(stage.directory.iterdir()):
        if not stage.directory.is_symlink() and begun.get(LEFT) == _files(stage.directory):
            shutil.rmtree(stage.directory)
        else:
            kept = set_aside(stage.directory)
        begun = {}
    stage.directory.mkdir(parents=True, exist_ok=True)
    seconds = float(begun.get(SECONDS, 0.0))
    _write(stage, {SECONDS: seconds})
    return seconds, kept


def cut_short(stage: Stage, seconds: float) -> None:
    """Remember what a stage left that ended badly, having worked for so long in all."""
    left = {} if stage.resumes else {LEFT: _files(stage.directory)}
    _write(stage, {SECONDS: round(seconds, 1), **left})


def finished(stage: Stage) -> None:
    """Nothing is left over."""
    _marker(stage).unlink(missing_ok=True)


def set_aside(directory: Path) -> Path:
    """Rename a directory to NAME.1, or the first number that is free."""
    number = 1
    while (kept := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    return directory.rename(kept)


def _marker(stage: Stage) -> Path:
    return stage.directory.parent / f".{stage.name}.begun.json"


def _read(stage: Stage) -> dict[str, Any]:
    try:
        begun = json.loads(_marker(stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return begun if isinstance(begun, dict) else {}


def _write(stage: Stage, begun: Mapping[str, Any]) -> None:
    partial = _marker(stage).with_suffix(".partial")
    partial.write_text(json.dumps(begun), encoding="utf-8")
    os.replace(partial, _marker(stage))


def _files(directory: Path) -> dict[str, list[int]]:
    """Every file and link below a directory: path -> [bytes, time of its last change]."""
    found = {}
    for file in sorted(directory.rglob("*")) if directory.is_dir() else ():
        if file.is_symlink() or not file.is_dir():
            said = file.lstat()
            found[str(file.relative_to(directory))] = [said.st_size, said.st_mtime_ns]
    return found
