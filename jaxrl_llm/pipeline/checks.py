"""What can be known of a stage before anything runs: whether what it reads is there or will be, and fits."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxrl_llm.config import Config, load
from jaxrl_llm.config.inherit import Planned, planned_at, run_folder
from jaxrl_llm.data.tokenizers import make_tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline.paths import is_there
from jaxrl_llm.pipeline.stage import RESUMABLE, Read, Stage
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.workdir import CONFIG

READERS = (*RESUMABLE, "data build", "data inspect")  # verbs with a config that open what it names
STARTS = ("init_from", "critic.init_from")


def faults_of(stage: Stage, earlier: Mapping[str, Stage], planned: Planned) -> list[str]:
    """A line for each, with file:line."""
    found = [*_paths(stage, earlier, planned)]
    if isinstance(stage.config, Config) and stage.verb == "train":
        found += _fits(stage, stage.config, planned)
    return found


def missing(stage: Stage, others: Sequence[Stage]) -> list[str]:
    """What the others read in the directory of a stage that has ended, and is not there."""
    return [
        f"stage {other.name} reads {read.path}, which stage {stage.name} did not leave ({read.origin}: {read.key})"
        for other in others
        for read in other.paths
        if read.owner == stage.name and not is_there(read.path)
    ]


def _paths(stage: Stage, earlier: Mapping[str, Stage], planned: Planned) -> Iterator[str]:
    """Each is there, or lies where another stage will put it."""
    if stage.config is not None and stage.verb not in READERS:
        return
    for read in dict.fromkeys(stage.paths):
        here = f"{read.origin}: stage {stage.name}: {read.key}={read.path}"
        if read.owner == stage.name:
            yield f"{here}: {stage.name} reads {stage.name}: it lies in the stage's own directory, empty when it begins"
        elif read.owner is None and not is_there(read.path):
            yield f"{here}: is not there\n  mend: its path, or {{STAGE}}/FILE of a stage that makes it"
        elif read.owner in earlier and read.key in STARTS and planned_at(planned, read.path) is None:
            yield (
                f"{here}: stage {read.owner} leaves no run there whose model is known before it has run\n"
                "  mend: the directory of a stage that trains, {STAGE}, or OUT of an `import`"
            )


def _fits(stage: Stage, config: Config, planned: Planned) -> Iterator[str]:
    """Who rates and who criticises reads the policy's tokens, or its text."""
    reads = {read.key: read for read in stage.paths}
    for name, part in config.rollout.rewards.parts.items() if "rollout" not in config.idle else ():
        key = f"rollout.rewards.parts.{name}.path"
        if isinstance(part, ModelRewardConfig) and key in reads:
            there = _config_at(part.path, planned)
            here = f"{reads[key].origin}: stage {stage.name}: rollout.rewards.parts.{name}"
            if there is not None and "reward" not in there.algo.trained and there.training.steps:
                yield f"{here}: {part.path} is a run of algo.kind={there.algo.kind}, and a reward model is wanted"
            elif there is not None and not part.retokenise and _differ(config, there):
                yield (
                    f"{here}: {part.path} has another tokenizer than the policy\n"
                    f"  mend: rollout.rewards.parts.{name}.retokenise=true"
                )
    critic = reads.get("critic.init_from")
    there = None if critic is None or "critic" in config.idle else _config_at(critic.path, planned)
    if critic is not None and there is not None and _differ(config, there):
        yield _other_critic(stage, critic)


def _other_critic(stage: Stage, read: Read) -> str:
    return (
        f"{read.origin}: stage {stage.name}: critic.init_from={read.path} has another tokenizer than the policy, whose "
        "tokens it reads\n  mend: leave it out, and the critic begins as the policy does"
    )


def _config_at(path: str, planned: Planned) -> Config | None:
    """Of a run that is or will be there; None of what is no run of ours."""
    there, file = planned_at(planned, path), run_folder(Path(path)) / CONFIG
    return load(file) if there is None and file.is_file() else there


def _differ(one: Config, other: Config) -> bool:
    """Whether two runs have different tokenizers; of files that are not there yet, by their names."""
    if one.tokenizer == other.tokenizer:
        return False
    try:
        return make_tokenizer(one.tokenizer).fingerprint != make_tokenizer(other.tokenizer).fingerprint
    except UserError:
        return True
