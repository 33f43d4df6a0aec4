"""What a pipeline's file says, before any of its configs is opened."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from jaxrl_llm.cli import VERBS
from jaxrl_llm.config.layers import file_layers, find_config, parse_overrides
from jaxrl_llm.config.problems import Problem, origin_of, refuse
from jaxrl_llm.config.validate import build
from jaxrl_llm.config.yaml_source import Node
from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema

OWN = ("logs", "plots")  # directories of WORKDIR that are no stage's
_REFERENCE = r"\{([A-Za-z][\w-]*)\}"


@schema
class ExpectConfig:
    """What a figure of a stage must come to; see `figures` for their names."""

    rise: float | None = None
    """After − before, at least."""
    least: float | None = None
    """After, at least."""
    most: float | None = None
    """After, at most."""

    @model_validator(mode="after")
    def _says_something(self) -> "ExpectConfig":
        if self.rise is None and self.least is None and self.most is None:
            raise ValueError("expects nothing: set rise, least or most")
        return self


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
    expect: dict[str, ExpectConfig] = Field(default_factory=dict)
    """By the name of a figure, what it must come to, else the pipeline stops: `{accuracy: {rise: 0.3}}`."""
    description: str | None = None
    """What it is for, in the report."""


@schema
class PipelineConfig:
    """Stages, in any order."""

    workdir: str
    """Each stage has a directory in it."""
    stages: dict[str, StageConfig]
    next: tuple[str, ...] = ()
    """Commands to try when all is done."""
    report: str | None = None
    """A name for the report, where several pipelines share a workdir: WORKDIR/report_NAME.md."""


@dataclass(frozen=True)
class Source:
    """A pipeline's file with the overrides of the command line."""

    name: str
    config: PipelineConfig
    tree: Node  # which knows the lines
    overrides: Mapping[str, list[str]]  # of the command line, by stage: `a.b=value`
    folders: Mapping[str, Path]  # of each stage that in which its config is looked for: that of the file naming it

    @property
    def directories(self) -> dict[str, str]:
        """Of each stage."""
        return {name: str(Path(self.config.workdir) / name) for name in self.config.stages}

    def origin(self, *path: str) -> str:
        """file:line of a part of the file."""
        return origin_of(self.tree, path)

    def set_by(self, name: str, key: str) -> str | None:
        """Where the pipeline sets a key of a stage's config; None where it does not."""
        if any(_covers(text.partition("=")[0], key) for text in self.overrides.get(name, [])):
            return "command line"
        return next(
            (self.origin("stages", name, "set", own) for own in self.config.stages[name].set if _covers(own, key)), None
        )

    def config_file(self, name: str) -> Path | None:
        """The config of a stage."""
        said = self.config.stages[name].config
        return None if said is None else find_config(said, self.folders[name])


def read_source(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Read a pipeline and those that it `extends`; overrides are `workdir=...` and `STAGE.a.b=value`.

    Raises:
        UserError: what is wrong with it besides its configs, all at once.
    """
    files = file_layers(find_config(path))
    layers, folders = [node for _, node in files], {}
    for file, node in files:
        stages = node.value.get("stages")
        for name, stage in stages.value.items() if stages is not None and stages.is_mapping else ():
            if stage.is_mapping and "config" in stage.value:
                folders[name] = file.parent
    workdir, by_stage = _split(overrides)
    if workdir is not None:
        layers.append(Node({"workdir": workdir}, layers[-1].origin))
    config, tree = build(PipelineConfig, layers, {})
    refuse(_misfits(config, by_stage), tree)
    return Source(files[-1][0].stem, config, tree, by_stage, folders)


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith(key + ".")


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
    for name, stage in config.stages.items():
        here, known = ("stages", name), config.stages
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            yield Problem(here, "a stage's name is a directory: letters, digits, - and _")
        if name in OWN:
            yield Problem(here, f"WORKDIR/{name} is the pipeline's own; call it otherwise")
        if not stage.verb.split() or stage.verb.split()[0] not in VERBS:
            yield Problem((*here, "verb"), f"unknown verb {stage.verb!r}{near(stage.verb, VERBS)}")
        if stage.config is None and (stage.set or name in by_stage):
            yield Problem((*here, "set"), "there is no config to override in this stage; use args")
        places: list[tuple[tuple[str, ...], Any]] = [((*here, "args"), stage.args)]
        places += [((*here, "set", key), value) for key, value in stage.set.items()]
        for place, value in places:
            for other in sorted(references(value) - known.keys()):
                yield Problem(place, f"{{{other}}} is no stage{near(other, known)}")
        if "workdir" in stage.set or any(text.startswith("workdir=") for text in by_stage.get(name, [])):
            yield Problem((*here, "set"), f"a stage's workdir is always WORKDIR/{name}; set the pipeline's")
    if config.report is not None and not re.fullmatch(r"[\w-]+", config.report):
        yield Problem(("report",), "is a part of a file's name: letters, digits, - and _")
    for name in by_stage.keys() - config.stages.keys():
        yield Problem(("stages", name), f"there is no such stage to override{near(name, config.stages)}")
    for other in sorted(references(config.next) - config.stages.keys()):
        yield Problem(("next",), f"{{{other}}} is no stage{near(other, config.stages)}")


def near(name: str, known: Any) -> str:
    """The nearest of the known names, or all, to go on with in a message."""
    found = get_close_matches(name, list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else f"; there is: {', '.join(known)}"


def references(value: Any) -> frozenset[str]:
    """The NAMEs of all `{NAME}` in the texts of plain data."""
    if isinstance(value, Mapping | list | tuple):
        children = value.values() if isinstance(value, Mapping) else value
        return frozenset().union(*map(references, children))
    return frozenset(re.findall(_REFERENCE, value)) if isinstance(value, str) else frozenset()


def fill(value: Any, directories: Mapping[str, str]) -> Any:
    """`{NAME}` replaced by the stage's directory, in every text of plain data."""
    if isinstance(value, str):
        return re.sub(_REFERENCE, lambda match: directories[match[1]], value)
    if isinstance(value, Mapping):
        return {key: fill(child, directories) for key, child in value.items()}
    return [fill(child, directories) for child in value] if isinstance(value, list | tuple) else value
