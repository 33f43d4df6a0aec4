"""`reject`: draw, rate, choose, write.  What was drawn or rated already is not drawn or rated again."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from jaxrl_llm.alike import same_config, same_models, same_texts, same_workdir
from jaxrl_llm.config import flatten, save
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.distributed import is_main, main_first
from jaxrl_llm.reject import page
from jaxrl_llm.reject.candidates import POOL, Group, join_runs, read_candidates
from jaxrl_llm.reject.checks import check_models, check_prompts, ranks_of
from jaxrl_llm.reject.choose import Chosen, choose, refuse_nothing
from jaxrl_llm.reject.config import AllConfig, RejectConfig, Resolved, ThresholdConfig, resolve_reject
from jaxrl_llm.reject.figures import figures_of
from jaxrl_llm.reject.files import write_rows, write_text
from jaxrl_llm.reject.pool import Asked, Pool, as_prompt
from jaxrl_llm.reject.questions import are_said, open_questions
from jaxrl_llm.reject.self_play import Dialogue, play
from jaxrl_llm.reject.work import Work, new_work
from jaxrl_llm.reject.write import FILES, write_chosen
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollouts import reward_models
from jaxrl_llm.tasks import Task, build_task
from jaxrl_llm.training.writers import METRICS
from jaxrl_llm.workdir import CONFIG, claim, hold

# Keys that may change when a run goes on, or chooses anew from what it has: they decide nothing of what is drawn.
FREE = ("workdir", "mesh", "sampling.slots", "prompts.overlong", "candidates", "pool", "rewards")
CHOICE = ("keep", "select", "human", "pairs")


def reject(path: str, overrides: Sequence[str] = (), say: Callable[[str], None] = print) -> Path:
    """Run what a config describes, or what is left of it; returns its run directory.

    Raises:
        UserError: of models, prompts, files and settings that are not there or do not fit; nothing was accepted.
    """
    runtime.start()
    resolved = resolve_reject(path, overrides)
    same_config(resolved.config)
    config, workdir = resolved.config, Path(resolved.config.workdir)
    questions, given = open_questions(config.prompts), read_given(config)
    chat = are_said(config.prompts)
    prompts = [*questions, *(as_prompt(group, chat) for groups in given.values() for group in groups)]
    check_prompts(config, [prompt.said for prompt in prompts])
    ranks = ranks_of(config, check_models(config, prompts[0]))
    same_texts({"prompts": prompts, "answers that are given": given})
    paths = [model.path for model in config.models.values()]
    same_models([*paths, *(part.path for part in reward_models(config.rewards).values())])
    with ExitStack() as stack:
        lock = main_first(lambda: take(workdir, resolved) if is_main() else None)
        if lock is not None:
            stack.enter_context(lock)
        same_workdir(workdir)
        task = None if config.prompts.task is None else build_task(config.prompts.task)
        work = new_work(config, len(questions))
        dialogues = None
        if config.self_play is None:
            rated = work.rate(gather(config, questions, given, task, work))
            chosen = choose(rated, config, ranks)
        else:
            rated, chosen, dialogues = play(config, config.self_play, questions, task, work)
        refuse_nothing(rated, chosen, config)
        if is_main():
            finish(resolved, rated, chosen, dialogues, task, work)
            say(f"done: {workdir / 'report.md'}")
    return workdir


def read_given(config: RejectConfig) -> dict[str, list[Group]]:
    """The answers that are there already, by who wrote those that name nobody.

    Raises:
        UserError: a file is not there, or a row of it is none.
    """
    runs = {name_of_run(Path(run)): read_candidates(Path(run)) for run in config.pool}
    made = {} if config.candidates is None else {Path(config.candidates).stem: read_candidates(Path(config.candidates))}
    return {"earlier": join_runs(runs), **made}


def name_of_run(path: Path) -> str:
    """RUN of a path that is RUN or RUN/pool.jsonl."""
    path = path.resolve()
    return path.parent.name if path.name == POOL else path.name


def take(workdir: Path, resolved: Resolved) -> TextIO:
    """Have the run directory for this process alone; what is there stays as it is until there is something new.

    Raises:
        UserError: it is something else's, or a run with other answers.
    """

    def load(saved: Path) -> RejectConfig:
        try:
            return resolve_reject(saved).config
        except UserError as error:
            raise UserError(
                f"{workdir} is the directory of something else: {saved} is no config of `reject`\n"
                "  mend: choose another workdir"
            ) from error

    if (workdir / CONFIG).is_file():
        load(workdir / CONFIG)
    ranks = [f"models.{name}.rank" for name in resolved.config.models]
    claim(workdir, resolved, load, [*FREE, *CHOICE, *ranks], keep=True)
    return hold(workdir)


def gather(
    config: RejectConfig,
    questions: Sequence[Prompt],
    given: Mapping[str, Sequence[Group]],
    task: Task | None,
    work: Work,
) -> list[Asked]:
    """All candidates: drawn now, of earlier runs, of a file, and by people."""
    pool = Pool(questions, task, are_said(config.prompts))
    for name, drawn in (work.answer(questions) if questions else {}).items():
        pool.add_drawn(name, questions, drawn)
    for source, groups in given.items():
        pool.add_groups(groups, source)
    if config.human:
        pool.add_human()
    return pool.asked


def finish(
    resolved: Resolved,
    rated: Sequence[Asked],
    chosen: Sequence[Chosen],
    dialogues: Sequence[Dialogue] | None,
    task: Task | None,
    work: Work,
) -> None:
    """Write what was chosen, and the report."""
    config, workdir = resolved.config, work.workdir
    save(resolved, workdir / CONFIG)  # type: ignore[arg-type]  # it says the same of another config
    if not work.rows:  # nobody was asked: what tells a run that has begun from one whose config may be mended
        write_rows(workdir / METRICS, [])
    counts = write_chosen(workdir, rated, chosen, config, dialogues)
    figures = {
        "kind": "reject",
        "name": workdir.resolve().name,
        **figures_of(rated, chosen, task),
        "speed": work.speed(),
        "config": {key: value for key, value in flatten(config).items() if value not in (None, [], {})},
        "files": {name: f"{count:,} {FILES[name]}" for name, count in counts.items()},
        "commands": commands(workdir, config, text=isinstance(rated[0].prompt.said, str)),
    }
    figures["plots"] = page.draw(figures, workdir / "plots")
    write_text(workdir / "report.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    write_text(workdir / "report.md", page.markdown(figures))


def commands(workdir: Path, config: RejectConfig, text: bool) -> dict[str, str]:
    """Purpose -> command; of prompts that are `text` to go on with, or of conversations."""
    first = next(iter(config.models.values()), None)
    start = f" init_from={shlex.quote(first.path)}" if first is not None else ""

    def file(name: str) -> str:
        return shlex.quote(str(workdir / name))

    stage = "pretrain" if text else "sft"
    found = {"train on what was selected": f"jaxrl-llm train {stage}/CONFIG{start} data.path={file('sft.jsonl')}"}
    if config.pairs.kind != "none":
        found["a reward model on the pairs, or DPO by dpo/CONFIG"] = (
            f"jaxrl-llm train reward/CONFIG{start} data.path={file('pairs.jsonl')}"
        )
    if isinstance(config.select, AllConfig):
        other = "keep.distinct=none"
    else:
        other = "select.least=0" if isinstance(config.select, ThresholdConfig) else "select.n=4"
    if config.self_play is None:
        found["choose anew from the same answers"] = f"jaxrl-llm reject {file(CONFIG)} {other}"
    return found
