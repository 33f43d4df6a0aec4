"""From a pipeline's file to stages that are ready to run, every config and argument checked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from jaxrl_llm.config.inherit import Planned
from jaxrl_llm.config.layers import file_layers, merge, parse_overrides
from jaxrl_llm.config.resolve import of_huggingface, resolve
from jaxrl_llm.config.root import Config
from jaxrl_llm.config.show import flatten
from jaxrl_llm.config.yaml_source import shown, to_yaml
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf import is_huggingface
from jaxrl_llm.pipeline.checks import faults_of
from jaxrl_llm.pipeline.order import ordered
from jaxrl_llm.pipeline.paths import owner_of, parse, paths_of_arguments, paths_of_config
from jaxrl_llm.pipeline.source import Source, fill, near, read_source, references
from jaxrl_llm.pipeline.stage import Read, Stage


@dataclass(frozen=True)
class Pipeline:
    """All stages, checked, in the order in which they run."""

    name: str
    report: str  # the report's file, without its ending
    workdir: Path
    stages: list[Stage]
    next: list[str]
    planned: Planned  # the runs that stages will leave, by absolute directory
    redo: frozenset[str] = frozenset()  # stages that run anew though they are done


def plan(path: str | Path, overrides: Sequence[str] = (), redo: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline and every config that it names.

    Args:
        path: a file, or the name of a packaged one.
        overrides: `workdir=...` and `STAGE.a.b=value`.
        redo: stages to run anew, and with them all that read them, directly or not.

    Raises:
        UserError: all faults that can be known before anything runs.
    """
    source = read_source(path, overrides)
    for name in redo:
        if name not in source.config.stages:
            raise UserError(f"--redo {name}: there is no such stage{near(name, source.config.stages)}")
    again = set(redo)
    names = ordered({name: reads_of(name, source) for name in source.config.stages}, source)
    stages: dict[str, Stage] = {}
    planned: dict[str, Config] = {}
    faults: list[str] = []
    for name in names:
        try:
            stage = stages[name] = make_stage(name, source, stages, planned)
            if stage.reads & again:
                again.add(name)
            if name in again or not stage.is_current:  # one that will not run reads nothing
                faults += faults_of(stage, stages, planned)
            planned |= runs_of(stage)
        except UserError as error:
            faults.append(f"{source.origin('stages', name)}: stage {name}: {error}")
    if faults:
        raise UserError("\n".join(faults if len(faults) == 1 else [f"{len(faults)} faults in the pipeline:", *faults]))
    following = [fill(line, source.directories) for line in source.config.next]
    report = f"report_{source.config.report}" if source.config.report else "report"
    return Pipeline(
        source.name, report, Path(source.config.workdir), list(stages.values()), following, planned, frozenset(again)
    )


def reads_of(name: str, source: Source) -> frozenset[str]:
    """The other stages that a stage names by `{NAME}`, or from whose directories its config or arguments read."""
    stage, directories = source.config.stages[name], source.directories
    found = references([*stage.args, stage.set])
    try:
        paths = [*paths_of_config(_raw_config(name, source)), *paths_of_arguments(parse(_arguments(name, source)))]
    except UserError:  # it is said when the stage is made
        paths = []
    owners = (owner_of(path, directories) for _, path in paths)
    return frozenset({*found, *(owner for owner in owners if owner is not None)} - {name})


def make_stage(name: str, source: Source, earlier: Mapping[str, Stage], planned: Planned) -> Stage:
    """One stage with its config resolved and its arguments parsed, which is how they are checked."""
    said, directory = source.config.stages[name], source.directories[name]
    arguments = _arguments(name, source)
    args = parse(arguments)
    reads = reads_of(name, source)
    of = {other: earlier[other].digest for other in sorted(reads) if other in earlier}
    inputs: dict[str, Any] = {"command": [*said.verb.split(), *fill(said.args, source.directories)], "reads": of}
    here = source.origin("stages", name, "args")
    paths = [(key, path, here) for key, path in paths_of_arguments(args)]
    config = None
    file = source.config_file(name)
    if file is not None:
        resolved = _resolve(said.verb, file, _overrides(name, source), planned)
        config = resolved.config
        inputs["config"] = flatten(config)
        for key, path in paths_of_config(asdict(config)):
            origin = source.set_by(name, key) or resolved.provenance.get(key, here)
            if not origin.startswith("init_from"):  # what comes with a model is in its checkpoint
                paths.append((key, path, origin))
    return Stage(
        name=name,
        verb=said.verb,
        directory=Path(directory),
        arguments=arguments,
        inputs=inputs,
        reads=reads,
        paths=tuple(Read(path, key, origin, owner_of(path, source.directories)) for key, path, origin in paths),
        origin=source.origin("stages", name),
        config=config,
        expect={key: (value, source.origin("stages", name, "expect", key)) for key, value in said.expect.items()},
        description=said.description,
    )


def runs_of(stage: Stage) -> dict[str, Config]:
    """The runs that a stage will leave for others to start from: absolute directory -> config."""
    if stage.verb == "train":
        return {os.path.abspath(stage.directory): stage.config}
    if stage.verb == "import":
        args = parse(stage.arguments)
        if is_huggingface(Path(args.directory)):
            return {os.path.abspath(args.out): of_huggingface(Path(args.directory), args.out).config}
    return {}


def _resolve(verb: str, path: Path, overrides: Sequence[str], planned: Planned) -> Any:
    if verb == "reject":
        from jaxrl_llm.reject.config import resolve_reject

        return resolve_reject(path, overrides)
    return resolve(path, overrides, planned)


def _overrides(name: str, source: Source) -> list[str]:
    """Of the stage's config: its directory, the pipeline's, the command line's."""
    said, directories = source.config.stages[name], source.directories
    own = [f"{key}={to_yaml(value)}" for key, value in fill(said.set, directories).items()]
    return [f"workdir={to_yaml(directories[name])}", *own, *source.overrides.get(name, [])]


def _arguments(name: str, source: Source) -> list[str]:
    """Of jaxrl-llm."""
    said, file = source.config.stages[name], source.config_file(name)
    verb, more = said.verb.split(), fill(said.args, source.directories)
    return [*verb, *more] if file is None else [*verb, shown(file), *more, *_overrides(name, source)]


def _raw_config(name: str, source: Source) -> Any:
    """A stage's config as it is written, with nothing inherited and nothing checked."""
    file = source.config_file(name)
    if file is None:
        return {}
    layers = [node for _, node in file_layers(file)]
    return reduce(merge, [*layers, parse_overrides(_overrides(name, source))]).plain()
