"""Config of rejection sampling: who answers what, how answers are rated, which are kept, and what is made of them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from jaxrl_llm.config import Config, resolve
from jaxrl_llm.config import Resolved as TrainResolved
from jaxrl_llm.config.layers import file_layers, find_config, parse_overrides
from jaxrl_llm.config.problems import Problem, refuse
from jaxrl_llm.config.show import leaf_origins
from jaxrl_llm.config.validate import build
from jaxrl_llm.config.yaml_source import shown
from jaxrl_llm.parallel.mesh import MeshConfig
from jaxrl_llm.rollout.config import RewardsConfig
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.schema import schema
from jaxrl_llm.tasks import TaskConfig


@schema
class QuestionsConfig:
    """What is asked: the problems of a task's train split, or the prompts of a file."""

    task: TaskConfig | None = None
    """Its answers can be graded."""
    problems: int = Field(default=1000, ge=1)
    """How many of the task's."""
    problems_seed: int = Field(default=0, ge=0)
    """Which of the task's."""
    path: str | None = None
    """Prompts in place of a task: a line each, or rows {prompt}, {messages}, {instruction} (.jsonl, .parquet, ...)."""
    chat: bool = False
    """A prompt that is text is what a user says, not text to go on with."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many of the file."""
    overlong: Literal["stop", "drop"] = "stop"
    """What is done at a prompt that, with the longest answer, exceeds a model's context."""


@schema
class WriterConfig:
    """A model that writes."""

    path: str
    """A run, a checkpoint, or a directory of Hugging Face or PEFT."""
    template: str | None = None
    """A bundled chat template or a file of Jinja; null: the model's own."""
    temperature: float | None = Field(default=None, gt=0.0)
    """Null: sampling.temperature."""


@schema
class SourceConfig(WriterConfig):
    """A model that answers."""

    n: int | None = Field(default=None, ge=1)
    """Answers to each prompt; null: sampling.n."""
    shots: int = Field(default=0, ge=0)
    """Worked examples that it is shown before the prompt: of the task, or of `examples`."""
    examples: str | None = None
    """A file of conversations, or of prompts and completions, to take shots from."""
    rank: int | None = None
    """Its place among the models (pairs.kind=sources): 1 answers best; null, of all: by parameters, then by shots."""


@schema
class DrawConfig(SamplingConfig):
    """How answers are drawn."""

    n: int = Field(default=8, ge=1)
    """K: answers to each prompt."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, its end token included."""
    slots: int = Field(default=64, ge=1)
    """Answers that are written at once."""
    prompts: int = Field(default=256, ge=1)
    """Prompts of a chunk: what a run that was cut short has to draw again, at most."""


@schema
class KeepConfig:
    """What an answer must be to be chosen at all.  Those that are not are counted by filter."""

    ended: bool = True
    """It ended by itself, not by the limit."""
    right: bool = False
    """The task's grader gives it 1."""
    equations: bool = False
    """Every `<<lhs=rhs>>` in it is right, within 1e-3 (RFT, arXiv 2308.01825)."""
    distinct: Literal["none", "text", "equations"] = "text"
    """Of answers to a prompt with the same text, or the same list of equations, one is kept: of the same text the
    first; of the same equations the one that is farthest from those kept, by summed Levenshtein distance (RFT)."""


@schema
class BestConfig:
    """The n answers of the highest score: best-of-K, or top-k."""

    kind: Literal["best"] = "best"
    n: int = Field(default=1, ge=1)
    """How many a prompt."""


@schema
class ThresholdConfig:
    """All answers that score at least this."""

    kind: Literal["threshold"] = "threshold"
    least: float
    """The score."""


@schema
class StatisticalConfig:
    """Answers drawn from the optimum of the KL-regularised reward, by rejection (RSO, arXiv 2309.06657)."""

    kind: Literal["statistical"] = "statistical"
    n: int = Field(default=8, ge=1)
    """How many a prompt, at most."""
    beta: float = Field(default=0.5, gt=0.0)
    """An answer is accepted with probability exp((score − highest score)/beta)."""


@schema
class AllConfig:
    """All that pass the filters: RFT."""

    kind: Literal["all"] = "all"


SelectConfig = Annotated[BestConfig | ThresholdConfig | StatisticalConfig | AllConfig, Field(discriminator="kind")]


@schema
class NoPairsConfig:
    """No preferences are written."""

    kind: Literal["none"] = "none"


@schema
class BestWorstConfig:
    """The best answer against the worst, wrong ones too: of `keep` only `ended` matters here."""

    kind: Literal["best_worst"] = "best_worst"
    by: Literal["score", "right"] = "score"
    """score: the highest against the lowest; right: of the right answers and of the wrong ones those of the highest
    score, which is where a reward model errs most (without scores: the first ones)."""


@schema
class SourcesConfig:
    """An answer of a better source against one of a worse (ALMoST, arXiv 2305.13735); nobody rates them."""

    kind: Literal["sources"] = "sources"
    ranks: Literal["neighbours", "all"] = "all"
    """Which ranks are compared: each with the next, or with all below."""


@schema
class TournamentConfig:
    """Pairs of the answers that were selected, the higher score chosen (RSO, arXiv 2309.06657)."""

    kind: Literal["tournament"] = "tournament"
    rounds: Literal["first", "all"] = "first"
    """first: each answer in one pair; all: winners meet again."""


PairsConfig = Annotated[NoPairsConfig | BestWorstConfig | SourcesConfig | TournamentConfig, Field(discriminator="kind")]


@schema
class SelfPlayConfig:
    """Dialogues of several turns: the assistant's is the best of K by the reward, then a model asks on (ALMoST)."""

    user: WriterConfig
    """Who asks on; the assistant's own model serves."""
    turns: int = Field(default=2, ge=2)
    """Answers of the assistant in a dialogue, at most."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest turn of the user; one that does not end is cut there, one that is empty ends the dialogue."""


@schema
class RejectConfig:
    """Rejection sampling: answers are drawn, rated and chosen; what is chosen is a data set."""

    workdir: str
    """The run directory: samples, pool.jsonl, sft.jsonl, pairs.jsonl and a report; the same command continues."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the samples, and what is drawn in selecting."""
    prompts: QuestionsConfig = QuestionsConfig()
    models: dict[str, SourceConfig] = Field(default_factory=dict)
    """Who answers, by names of your own."""
    sampling: DrawConfig = DrawConfig()
    candidates: str | None = None
    """Answers made elsewhere: rows {prompt, answers}, or those of `generate --out`."""
    pool: tuple[str, ...] = ()
    """Earlier runs of rejection sampling, whose answers take part again: of all iterations, not of the last alone."""
    rewards: RewardsConfig = RewardsConfig()
    """How answers are rated; see rollout.rewards."""
    keep: KeepConfig = KeepConfig()
    select: SelectConfig = BestConfig()
    human: bool = False
    """The task's own worked answer is kept too, if it passes the filters (RFT)."""
    pairs: PairsConfig = NoPairsConfig()
    self_play: SelfPlayConfig | None = None
    mesh: MeshConfig = MeshConfig()


class Resolved(NamedTuple):
    """A config and its history: see `config.resolve.Resolved`."""

    config: RejectConfig
    source: str
    provenance: dict[str, str]


def resolve_reject(path: str | Path, overrides: Sequence[str] = ()) -> Resolved:
    """As `config.resolve`, of rejection sampling.  A UserError names all faults, each with its file:line."""
    source = find_config(path)
    layers = [node for _, node in file_layers(source)]
    if overrides:
        layers.append(replace(parse_overrides(overrides), origin=layers[-1].origin))
    config, tree = build(RejectConfig, layers, {})
    refuse(check(config), tree)
    return Resolved(config, shown(source), leaf_origins(tree))


def resolve_any(path: str | Path, overrides: Sequence[str] = ()) -> "Resolved | TrainResolved":
    """The config of a run of rejection sampling, or of `train`: the first if it has a section that only that has."""
    own = {field.name for field in fields(RejectConfig)} - {field.name for field in fields(Config)}
    written = {key for _, layer in file_layers(find_config(path)) for key in layer.value}
    return resolve_reject(path, overrides) if own & written else resolve(path, overrides)


def check(config: RejectConfig) -> list[Problem]:
    """All misfits, each at the key that is the likeliest to be mended."""
    parts = (_questions, _answers, _rated, _chosen, _paired, _dialogues)
    return [problem for part in parts for problem in part(config)]


def answers_each(config: RejectConfig) -> int:
    """K of all models together."""
    return sum(model.n or config.sampling.n for model in config.models.values())


def _questions(config: RejectConfig) -> Iterator[Problem]:
    asked = config.prompts
    if asked.task is not None and asked.path is not None:
        yield Problem(("prompts", "path"), "prompts.task asks its own problems: set one of them")
    if config.models and asked.task is None and asked.path is None:
        yield Problem(("prompts",), "nothing is asked: set prompts.task.kind=arithmetic, say, or prompts.path=FILE")
    if asked.path is None and asked.limit is not None:
        yield Problem(("prompts", "limit"), "is of prompts.path; of a task there are prompts.problems")


def _answers(config: RejectConfig) -> Iterator[Problem]:
    if not config.models and config.candidates is None and not config.pool:
        yield Problem(("models",), "nobody answers: set models.policy.path=RUN, or candidates=FILE")
    for name, model in config.models.items():
        if not name.replace("-", "").replace("_", "").isalnum():
            yield Problem(("models", name), "the name is a folder's too: letters, digits, - and _")
        if name in ("human", "candidates"):
            yield Problem(("models", name), "is the name of other answers: call it otherwise")
        if model.shots and model.examples is None and config.prompts.task is None:
            yield Problem(("models", name, "shots"), f"of what? set models.{name}.examples=FILE")
        if model.examples is not None and not model.shots:
            yield Problem(("models", name, "examples"), f"none is shown: set models.{name}.shots=3, say")
    if os.path.abspath(config.workdir) in map(os.path.abspath, config.pool):
        yield Problem(("pool",), f"{config.workdir} is this run itself: set workdir=ANOTHER, or leave it out of pool")


def _rated(config: RejectConfig) -> Iterator[Problem]:
    parts = config.rewards.parts
    if config.rewards.normalise == "running":
        yield Problem(("rewards", "normalise"), "running is of rounds, and there is one: whiten")
    rated = any(part.kind != "length" for part in parts.values())
    by_score = config.pairs.kind == "tournament" or config.pairs == BestWorstConfig(by="score")
    if not rated and (config.select.kind != "all" or by_score):
        what = f"select.kind={config.select.kind}" if config.select.kind != "all" else f"pairs.kind={config.pairs.kind}"
        yield Problem(
            ("rewards", "parts"),
            f"nothing rates the answers, and {what} goes by that: set rewards.parts.likes.path=RUN of a reward model, "
            "or rewards.parts.grade.kind=task",
        )
    for name, part in parts.items():
        if part.kind == "task" and config.prompts.task is None:
            yield Problem(
                ("rewards", "parts", name), "is the grade of a task, and the prompts are of none: set prompts.task"
            )


def _chosen(config: RejectConfig) -> Iterator[Problem]:
    graded = config.prompts.task is not None or config.candidates is not None or config.pool
    for path, wanted in (
        (("keep", "right"), config.keep.right),
        (("pairs", "by"), isinstance(config.pairs, BestWorstConfig) and config.pairs.by == "right"),
    ):
        if wanted and not graded:
            yield Problem(path, "who knows what is right? set prompts.task")
    if config.human and config.prompts.task is None:
        yield Problem(("human",), "is the worked answer of a task, and prompts.task is not set")
    alone = answers_each(config) == 1 and config.candidates is None and not config.pool
    if alone and config.pairs.kind != "none":
        yield Problem(
            ("sampling", "n"), f"1 answer a prompt, and pairs.kind={config.pairs.kind} compares two; set 8, say"
        )
    elif alone and config.select.kind in ("best", "statistical"):
        yield Problem(("sampling", "n"), "1 answer a prompt leaves nothing to choose; set 8, say, or select.kind=all")
    sampling = config.sampling
    for name, model in config.models.items():
        cold = sampling.temperature == 0 and model.temperature is None
        if (cold or sampling.top_k == 1) and (model.n or sampling.n) > 1:
            key = "temperature" if cold else "top_k"
            yield Problem(("sampling", key), f"all answers by {name} will be alike: set a larger one, or sampling.n=1")


def _paired(config: RejectConfig) -> Iterator[Problem]:
    if config.pairs.kind == "sources" and len(config.models) < 2:
        yield Problem(("pairs", "kind"), "sources compares models, and there is one: name another in models")
    ranks = [model.rank for model in config.models.values()]
    if None in ranks and any(rank is not None for rank in ranks):
        yield Problem(("models",), "some have a rank and others none: say it of all, or of none")
    if config.pairs.kind == "tournament" and _chosen_each(config.select) < 2:
        yield Problem(("select", "n"), "1 answer a prompt is selected, and a tournament pairs the selected: set 4, say")


def _chosen_each(select: Any) -> int:
    return select.n if isinstance(select, BestConfig | StatisticalConfig) else 2


def _dialogues(config: RejectConfig) -> Iterator[Problem]:
    if config.self_play is None:
        return
    if len(config.models) != 1:
        yield Problem(("self_play",), f"one model is the assistant, and models names {len(config.models) or 'none'}")
    if not isinstance(config.select, BestConfig) or config.select.n != 1:
        yield Problem(("select",), "in self-play the best answer is what goes on: select.kind=best, select.n=1")
    for key, there in (("candidates", config.candidates is not None), ("pool", bool(config.pool))):
        if there:
            yield Problem((key,), "is of single answers, and self_play makes dialogues: run it apart")
    if config.pairs.kind not in ("none", "best_worst"):
        yield Problem(("pairs", "kind"), f"{config.pairs.kind} is not for self_play: best_worst, or none")
    graded = {("rewards", "parts", name): part.kind == "task" for name, part in config.rewards.parts.items()} | {
        ("keep", "right"): config.keep.right,
        ("pairs", "by"): isinstance(config.pairs, BestWorstConfig) and config.pairs.by == "right",
        ("human",): config.human,
    }
    for path, wanted in graded.items():
        if wanted:
            yield Problem(path, "is of a task's problems, and what self_play goes on to ask is none")
