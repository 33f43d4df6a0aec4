"""A pipeline: stages in order, each a command of its own process, each reading what earlier ones left.

    workdir: runs/quickstart
    stages:
      corpus: {verb: data corpus, args: ["{corpus}/stories.txt"]}
      pretrain: {verb: train, config: pretrain/quickstart.yaml, set: {data.path: "{corpus}/stories.txt"}}
    next:
      - jaxrl-llm generate {pretrain} --prompt "Once"

A stage lives in WORKDIR/NAME, and `{NAME}` stands for that directory in `args`, `set` and `next`.  A stage with a
config gets `workdir=WORKDIR/NAME`.  When it is done, .done.json there holds all that decided its result, and it is
skipped the next time; when that has changed, nothing runs until the user says `--redo NAME`.

This file plans; `verbs/run.py` runs the plan.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field

from jaxrl_llm.cli import VERBS
from jaxrl_llm.config.layers import find_config, parse_overrides
from jaxrl_llm.config.problems import Problem, origin_of, refuse
from jaxrl_llm.config.resolve import resolve
from jaxrl_llm.config.show import flatten
from jaxrl_llm.config.validate import build
from jaxrl_llm.config.yaml_source import Node, read_yaml, shown, to_yaml
from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema

DONE = ".done.json"


@schema
class StageConfig:
    """One command."""

    verb: str
    """A verb of the command line, with its action where it has one: `train`, `data corpus`."""
    config: str | None = None
    """A config, relative to the pipeline's file or packaged."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides of that config: `{training.steps: 100}`."""
    args: tuple[str, ...] = ()
    """More arguments."""


@schema
class PipelineConfig:
    """Stages in order."""

    workdir: str
    """Each stage has a directory in it."""
    stages: dict[str, StageConfig]
    next: tuple[str, ...] = ()
    """Commands to try when all is done."""


@dataclass(frozen=True)
class Stage:
    """A stage that has been checked and is ready to run."""

    name: str
    directory: Path
    arguments: list[str]  # of jaxrl-llm
    inputs: dict[str, Any]  # all that decides its result
    reads: frozenset[str]  # the stages whose directories it names

    @property
    def digest(self) -> str:
        """A hash of `inputs`."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()

    @property
    def command(self) -> str:
        """As one would type it."""
        return shlex.join(["jaxrl-llm", *self.arguments])

    def done(self) -> dict[str, Any] | None:
        """What .done.json says, if the stage has been finished."""
        try:
            done = json.loads((self.directory / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return done if isinstance(done, dict) and {"digest", "inputs"} <= done.keys() else None


@dataclass(frozen=True)
class Pipeline:
    """All stages, checked."""

    workdir: Path
    stages: list[Stage]
    next: list[str]


def plan(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline and every config that it names; overrides are `workdir=...` and `STAGE.a.b=value`."""
    source = find_config(path)
    node = read_yaml(source)
    workdir, by_stage = _split(overrides)
    if workdir is not None:
        node = Node({**node.value, "workdir": workdir}, node.origin)
    config, tree = build(PipelineConfig, [node], {})
    refuse(_misfits(config, by_stage), tree)
    root = Path(config.workdir)
    directories = {name: str(root / name) for name in config.stages}
    stages: dict[str, Stage] = {}
    for name, stage in config.stages.items():
        try:
            stages[name] = _stage(name, stage, by_stage.get(name, []), directories, stages, source.parent)
        except UserError as error:
            raise UserError(f"{origin_of(tree, ('stages', name))}: stage {name}: {error}") from None
    return Pipeline(root, list(stages.values()), [_fill(line, directories) for line in config.next])


def _split(overrides: Sequence[str]) -> tuple[Node | None, dict[str, list[str]]]:
    """The pipeline's own workdir, and the overrides of each stage."""
    workdir: Node | None = None
    by_stage: dict[str, list[str]] = {}
    for text in overrides:
        key = text.partition("=")[0]
        stage, dot, inner = text.partition(".")
        if key == "workdir":
            workdir = parse_overrides([text]).value["workdir"]
        elif dot and "." in key:
            by_stage.setdefault(stage, []).append(inner)
        else:
            raise UserError(
                f"command line: {text!r} is no override of a pipeline\n  mend: write workdir=DIR, or STAGE.a.b=value"
            )
    return workdir, by_stage


def _misfits(config: PipelineConfig, by_stage: Mapping[str, list[str]]) -> Iterator[Problem]:
    """What is wrong with a pipeline besides its configs."""
    seen: list[str] = []
    for name, stage in config.stages.items():
        here = ("stages", name)
        seen.append(name)
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            yield Problem(here, "a stage's name is a directory: letters, digits, - and _")
        if not stage.verb.split() or stage.verb.split()[0] not in VERBS:
            yield Problem((*here, "verb"), f"unknown verb {stage.verb!r}{_near(stage.verb, VERBS)}")
        if stage.config is None and (stage.set or name in by_stage):
            yield Problem((*here, "set"), "there is no config to override in this stage; use args")
        for other in sorted(_references([*stage.args, stage.set]) - set(seen)):
            yield Problem(here, f"{{{other}}} is neither this stage nor one before it{_near(other, seen)}")
        if "workdir" in stage.set or any(text.startswith("workdir=") for text in by_stage.get(name, [])):
            yield Problem((*here, "set"), f"a stage's workdir is always WORKDIR/{name}; set the pipeline's")
    for name in by_stage.keys() - config.stages.keys():
        yield Problem(("stages", name), f"there is no such stage to override{_near(name, seen)}")
    for other in sorted(_references(config.next) - set(seen)):
        yield Problem(("next",), f"{{{other}}} is no stage{_near(other, seen)}")


def _near(name: str, known: Any) -> str:
    found = get_close_matches(name, list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else f"; there is: {', '.join(known)}"


_REFERENCE = r"\{([A-Za-z][\w-]*)\}"


def _references(value: Any) -> frozenset[str]:
    """The NAMEs of all `{NAME}` in the texts of plain data."""
    if isinstance(value, Mapping | list | tuple):
        children = value.values() if isinstance(value, Mapping) else value
        return frozenset().union(*map(_references, children))
    return frozenset(re.findall(_REFERENCE, value)) if isinstance(value, str) else frozenset()


def _fill(value: Any, directories: Mapping[str, str]) -> Any:
    """`{NAME}` replaced by the stage's directory, in every text of plain data."""
    if isinstance(value, str):
        return re.sub(_REFERENCE, lambda match: directories[match[1]], value)
    if isinstance(value, Mapping):
        return {key: _fill(child, directories) for key, child in value.items()}
    return [_fill(child, directories) for child in value] if isinstance(value, list | tuple) else value


def _stage(
    name: str,
    stage: StageConfig,
    overrides: list[str],
    directories: Mapping[str, str],
    earlier: Mapping[str, Stage],
    folder: Path,
) -> Stage:
    """One stage with its config loaded, which is how it is checked."""
    verb, more = stage.verb.split(), _fill(stage.args, directories)
    reads = _references([*stage.args, stage.set]) - {name}
    inputs = {"command": [*verb, *more], "reads": {other: earlier[other].digest for other in sorted(reads)}}
    if stage.config is None:
        return Stage(name, Path(directories[name]), [*verb, *more], inputs, reads)
    own = [f"{key}={to_yaml(value)}" for key, value in _fill(stage.set, directories).items()]
    overrides = [f"workdir={to_yaml(directories[name])}", *own, *overrides]
    found = find_config(stage.config, folder)
    inputs["config"] = flatten(resolve(found, overrides).config)
    return Stage(name, Path(directories[name]), [*verb, shown(found), *more, *overrides], inputs, reads)


def to_redo(pipeline: Pipeline, names: Sequence[str]) -> set[str]:
    """The named stages and all that read them, directly or not."""
    known = [stage.name for stage in pipeline.stages]
    for name in names:
        if name not in known:
            raise UserError(f"--redo {name}: there is no such stage{_near(name, known)}")
    redo = set(names)
    for stage in pipeline.stages:
        if stage.reads & redo:
            redo.add(stage.name)
    return redo


def refuse_changed(pipeline: Pipeline, redo: set[str]) -> None:
    """A stage that was finished with other inputs is neither trusted nor overwritten."""
    faults = []
    for stage in pipeline.stages:
        done = stage.done()
        if done is not None and done["digest"] != stage.digest and stage.name not in redo:
            faults.append(f"stage {stage.name} was finished with other settings:")
            faults += [f"    {line}" for line in _changes(done["inputs"], stage.inputs)]
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
