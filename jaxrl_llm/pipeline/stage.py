"""A stage that is ready to run, and what it was when it was finished."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline.source import ExpectConfig

DONE = ".done.json"
RESUMABLE = ("train", "reject")  # verbs of which the same command goes on with what was cut short


@dataclass(frozen=True)
class Read:
    """A path that a stage reads."""

    path: str
    key: str  # of its config, or the argument
    origin: str  # file:line
    owner: str | None  # the stage in whose directory it lies


@dataclass(frozen=True)
class Stage:
    """A stage that has been checked."""

    name: str
    verb: str  # with its action
    directory: Path
    arguments: list[str]  # of jaxrl-llm
    inputs: dict[str, Any]  # all that decides its result
    reads: frozenset[str]  # the stages from whose directories it reads
    paths: tuple[Read, ...]  # the files and models that it is known to read
    origin: str  # file:line
    config: Any = None  # of `train` a Config, of `reject` a RejectConfig
    expect: Mapping[str, tuple[ExpectConfig, str]] | None = None  # figure -> what it must come to, and file:line
    description: str | None = None

    @property
    def digest(self) -> str:
        """A hash of `inputs`."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()

    @property
    def command(self) -> str:
        """As one would type it."""
        return shlex.join(["jaxrl-llm", *self.arguments])

    @property
    def resumes(self) -> bool:
        """Whether its command goes on with what was cut short."""
        return self.verb in RESUMABLE

    @property
    def kind(self) -> str | None:
        """What it trains, or evaluates on."""
        if self.verb == "train":
            return str(self.config.algo.kind)
        if self.verb == "evaluate" and "--suite" in self.arguments[:-1]:
            return self.arguments[self.arguments.index("--suite") + 1]
        return "reject" if self.verb == "reject" else None

    def done(self) -> dict[str, Any] | None:
        """What .done.json says, if the stage has been finished."""
        try:
            done = json.loads((self.directory / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = (
            isinstance(done, dict) and {"digest", "inputs"} <= done.keys() and {"command", "reads"} <= {*done["inputs"]}
        )
        return done if whole else None

    @property
    def is_current(self) -> bool:
        """Whether the stage has been finished, as it is now."""
        done = self.done()
        return done is not None and done["digest"] == self.digest

    def finish(self, seconds: float) -> None:
        """Write .done.json."""
        done = {"digest": self.digest, "seconds": round(seconds, 1), "inputs": self.inputs}
        partial = self.directory / f"{DONE}.partial"
        partial.write_text(json.dumps(done, indent=1), encoding="utf-8")
        os.replace(partial, self.directory / DONE)


def changed(stage: Stage) -> list[str]:
    """What is not as it was when the stage was finished, a line each."""
    done = stage.done()
    if done is None or stage.is_current:
        return []
    return list(_changes(done["inputs"], stage.inputs)) or ["in what it was made of"]


def refuse_changed(stages: Sequence[Stage], redo: Set[str]) -> None:
    """A stage that was finished with other inputs is neither trusted nor overwritten: a UserError."""
    faults = []
    for stage in stages:
        lines = changed(stage)
        if lines and stage.name not in redo:
            faults.append(f"stage {stage.name} was finished with other settings:")
            faults += [f"    {line}" for line in lines]
            faults.append(f"  mend: --redo {stage.name} (the old directory is kept), or another workdir=DIR")
    if faults:
        raise UserError("\n".join(faults))


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["command"] != new["command"]:
        yield f"{shlex.join(old['command'])} -> {shlex.join(new['command'])}"
    was, now = old.get("config", {}), new.get("config", {})
    for key in dict.fromkeys([*was, *now]):
        if was.get(key) != now.get(key):
            yield f"{key}: {was.get(key)} -> {now.get(key)}"
    for name in old["reads"].keys() | new["reads"].keys():
        if old["reads"].get(name) != new["reads"].get(name):
            yield f"it reads another {name}"
