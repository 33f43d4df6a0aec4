"""`reject`: draw, rate, choose, write.  What was drawn or rated already is not drawn or rated again."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from jaxrl_llm.config import flatten
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.distributed import is_main, main_first
from jaxrl_llm.parallel.specs import count_params
from jaxrl_llm.reject import page
from jaxrl_llm.reject.candidates import Group, read_candidates
from jaxrl_llm.reject.choose import Chosen, choose, refuse_nothing
from jaxrl_llm.reject.config import RejectConfig, Resolved, resolve_reject
from jaxrl_llm.reject.figures import figures_of
from jaxrl_llm.reject.pool import Asked, Pool
from jaxrl_llm.reject.questions import open_questions
from jaxrl_llm.reject.self_play import Dialogue, play
from jaxrl_llm.reject.work import Work, new_work
from jaxrl_llm.reject.write import FILES, write_chosen
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.saved import SavedModel, find_model
from jaxrl_llm.scorers import check_reward_model
from jaxrl_llm.tasks import Task, build_task
from jaxrl_llm.workdir import claim, hold

# Keys that may change when a run goes on, or chooses anew from what it has: they decide nothing of what is drawn.
FREE = ("workdir", "mesh", "rewards", "keep", "select", "human", "pairs", "candidates", "pool", "sampling.slots")


def reject(path: str, overrides: Sequence[str] = (), say: Callable[[str], None] = print) -> Path:
    """Run what a config describes, or what is left of it; returns its run directory.

    Raises:
        UserError: of models, prompts, files and settings that are not there or do not fit; nothing was accepted.
    """
    runtime.start()
    resolved = resolve_reject(path, overrides)
    config, workdir = resolved.config, Path(resolved.config.workdir)
    questions = open_questions(config.prompts)
    models = check_models(config)
    files = [*config.pool, *([] if config.candidates is None else [config.candidates])]
    groups = {file: read_candidates(Path(file)) for file in files}
    with ExitStack() as stack:
        lock = main_first(lambda: take(workdir, resolved) if is_main() else None)
        if lock is not None:
            stack.enter_context(lock)
        task = None if config.prompts.task is None else build_task(config.prompts.task)
        work = new_work(config, len(questions))
        dialogues = None
        if config.self_play is None:
            rated = work.rate(gather(config, questions, groups, task, work))
            chosen = choose(rated, config, ranks_of(config, models))
        else:
            rated, chosen, dialogues = play(config, config.self_play, questions, task, work)
        if is_main():
            finish(resolved, rated, chosen, dialogues, task, work)
            say(f"done: {workdir / 'report.md'}")
    return workdir


def check_models(config: RejectConfig) -> dict[str, SavedModel]:
    """The models that answer, found and not yet read; an error about any comes before the work.

    Raises:
        UserError: one is not there or is none that writes; a reward model is none, or has another tokenizer than the
            first of the models and is not to re-tokenise.
    """
    found = {name: find_model(model.path) for name, model in config.models.items()}
    for name, saved in found.items():
        if "policy" not in saved.card.heads:
            raise UserError(f"models.{name}: {saved.path} holds a reward model, which does not write")
    for name, part in config.rewards.parts.items():
        if isinstance(part, ModelRewardConfig):
            try:
                judge = find_model(part.path)
                writer = next(iter(found.values()), judge)
                check_reward_model(part, judge, writer.card.tokenizer)
            except UserError as error:
                raise UserError(f"rewards.parts.{name}: {error}") from error
    if config.self_play is not None:
        find_model(config.self_play.user.path)
    return found


def ranks_of(config: RejectConfig, models: Mapping[str, SavedModel]) -> dict[str, int]:
    """The place of each model, 0 the best: as the config says, else by parameters, then by shots; equals share it."""

    def quality(name: str) -> tuple[int, ...]:
        model = config.models[name]
        if model.rank is not None:
            return (-model.rank,)
        return count_params(llama_specs(models[name].config.model, "lm")), model.shots

    order = sorted({quality(name) for name in models}, reverse=True)
    return {name: order.index(quality(name)) for name in models}


def take(workdir: Path, resolved: Resolved) -> TextIO:
    """Claim the run directory for this process alone."""
    claim(workdir, resolved, load=lambda saved: resolve_reject(saved).config, free=FREE)
    return hold(workdir)


def gather(
    config: RejectConfig,
    questions: Sequence[Prompt],
    groups: Mapping[str, Sequence[Group]],
    task: Task | None,
    work: Work,
) -> list[Asked]:
    """All candidates: drawn now, of earlier runs, of a file, and by people."""
    pool = Pool(questions, task, config.prompts.chat)
    for name, drawn in (work.answer(questions) if questions else {}).items():
        pool.add_drawn(name, questions, drawn)
    for file, found in groups.items():
        pool.add_groups(found, Path(file).stem)
    if config.human:
        pool.add_human()
    if not any(asked.candidates for asked in pool.asked):
        raise UserError("there is no answer to any prompt\n  mend: look at models, candidates and pool")
    return pool.asked


def finish(
    resolved: Resolved,
    rated: Sequence[Asked],
    chosen: Sequence[Chosen],
    dialogues: Sequence[Dialogue] | None,
    task: Task | None,
    work: Work,
) -> None:
    """Write what was chosen, then the report; nothing is written where nothing was chosen."""
    config, workdir = resolved.config, work.workdir
    refuse_nothing(chosen, config)
    counts = write_chosen(workdir, rated, chosen, config, dialogues)
    figures = {
        "kind": "reject",
        "name": workdir.resolve().name,
        **figures_of(rated, chosen, task),
        "speed": work.speed(),
        "config": {key: value for key, value in flatten(config).items() if value not in (None, [], {})},
        "files": {name: f"{count:,} {FILES[name]}" for name, count in counts.items()},
        "commands": commands(workdir, config),
    }
    figures["plots"] = page.draw(figures, workdir / "plots")
    (workdir / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (workdir / "report.md").write_text(page.markdown(figures), encoding="utf-8")


def commands(workdir: Path, config: RejectConfig) -> dict[str, str]:
    """Purpose -> command."""
    first = next(iter(config.models.values()), None)
    start = f" init_from={shlex.quote(first.path)}" if first is not None else ""

    def file(name: str) -> str:
        return shlex.quote(str(workdir / name))

    found = {"fine-tune on what was selected": f"jaxrl-llm train sft/CONFIG{start} data.path={file('sft.jsonl')}"}
    if config.pairs.kind != "none":
        found["a reward model on the pairs, or DPO by dpo/CONFIG"] = (
            f"jaxrl-llm train reward/CONFIG{start} data.path={file('pairs.jsonl')}"
        )
    found["choose anew from the same answers"] = f"jaxrl-llm reject {file('config.yaml')} select.n=4"
    return found
