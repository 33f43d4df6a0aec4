"""One stage of training from its config to its report: opens, resumes, loops, evaluates, samples, reports."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from jaxrl_llm.alike import same_config, same_start, same_workdir
from jaxrl_llm.announce import facts, headline, listen, write_sample
from jaxrl_llm.answering import make_task_evaluation
from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.begin import Begin, begin
from jaxrl_llm.config import Config, Resolved, dump, resolve
from jaxrl_llm.data.build_sequences import quarantine
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.datasets import Datasets, open_datasets
from jaxrl_llm.errors import Preempted, UserError
from jaxrl_llm.heldout import Judge, make_evaluation, make_judge
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.chips import device_memory, peak_flops
from jaxrl_llm.parallel.distributed import is_main, main_first, same_everywhere
from jaxrl_llm.report import write_report
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.score_scale import measure_scale
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.console import Console
from jaxrl_llm.training.hooks import CheckpointHook, EvalHook, LogHook, StopSignal
from jaxrl_llm.training.loop import fit
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import (
    QUARANTINE,
    Writer,
    open_writers,
    write_details,
    write_facts,
)
from jaxrl_llm.types import Json, Params, TrainState
from jaxrl_llm.workdir import claim, hold


def train(path: str, overrides: Sequence[str] = ()) -> Path:
    """Run the stage that a config describes, or what is left of it; returns its run directory."""
    runtime.start()
    resolved = resolve(path, overrides)
    same_config(resolved.config)
    config, workdir = resolved.config, Path(resolved.config.workdir)
    if config.training.steps == 0:
        raise UserError(f"{path}: training.steps=0 trains nothing\n  mend: another config, with init_from: THIS RUN")
    start = begin(config)
    same_start(start)
    parts = assemble(config)
    data = open_datasets(config, parts, start)
    same_everywhere({"data, and their order": data.source.state()[0]["fingerprint"][:12]})
    lock = main_first(lambda: take(workdir, resolved, data) if is_main() else None)
    same_workdir(workdir)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    try:
        state, resumed = starting_state(parts, checkpoints, data, start)
        run_loop(resolved, parts, state, data, checkpoints, start, resumed)
    except Preempted as error:
        again = shlex.join(["jaxrl-llm", "train", path, *overrides])
        raise Preempted(f"{error}\n  continue with: {again}") from None
    finally:
        data.source.close()
        checkpoints.close()
        if lock is not None:
            lock.close()
    return workdir


def take(workdir: Path, resolved: Resolved, data: Datasets) -> TextIO:
    """Claim the run directory for this process alone, and keep there the rows that were skipped when data was read."""
    claim(workdir, resolved)
    lock = hold(workdir)
    quarantine(data.sequences().values(), workdir / QUARANTINE)
    return lock


def starting_state(
    parts: Assembly, checkpoints: Checkpoints, data: Datasets, start: Begin
) -> tuple[TrainState, int | None]:
    """The state to go on from, and the step it was saved at: the newest checkpoint, else `init_from`, else random."""
    step = checkpoints.latest()
    if step is not None:
        saved = checkpoints.restore(step, parts.template)
        data.source.restore(saved.source, saved.arrays)
        weights = start.weights(parts.mesh, parts.needed_weights)
        return dataclasses.replace(saved.state, fixed=parts.complete(saved.state.fixed, weights)), step
    opt_state = start.optimizer(parts.template.opt_state) if start.optimizer is not None else None
    return parts.new_state(start.weights(parts.mesh), start.config.seed, opt_state), None


def run_loop(
    resolved: Resolved,
    parts: Assembly,
    state: TrainState,
    data: Datasets,
    checkpoints: Checkpoints,
    start: Begin,
    resumed: int | None,
) -> TrainState:
    """The loop with all that hangs on it, and what follows it: a sample and the report."""
    config, workdir, last = resolved.config, Path(resolved.config.workdir), resolved.config.training.steps
    watch = Throughput(
        tokens_per_step=data.source.tokens_per_step,
        flops_per_token=parts.flops_per_token(data.length(config)),
        peak_flops=peak_flops(list(parts.mesh.devices.flat)),
    )
    writers: tuple[Writer, ...] = ()
    if is_main():
        logging = config.logging
        writers = open_writers(workdir, resumed=resumed, tensorboard=logging.tensorboard, wandb=logging.wandb)
        write_facts(workdir, facts(parts, data))
    console = Console(
        total_steps=last,
        throughput=watch,
        start_step=resumed or 0,
        memory=device_memory().of,
        quiet=config.logging.quiet or not is_main(),
    )
    log = LogHook(
        console, writers, watch, every=config.training.log_every, last=last, tokens=data.source.tokens_per_step
    )
    judge = make_judge(parts) if parts.algo.scores is not None else None
    evals = EvalHook(evaluation(config, parts, data, judge, start), log, every=config.eval.every, last=last)
    card = start.card(parts)

    def run_json(state: TrainState) -> Json:
        """What a checkpoint says of itself; of a reward model also how its scores lie."""
        scale = measure_scale(config, parts, data.stores, state, judge) if judge and "reward" in card.heads else None
        return dataclasses.replace(card, score=scale).to_json() | {"config": dump(resolved)}

    with console, StopSignal(console.note) as stop:
        console.note(headline(config, parts, data, resumed))
        listen(data, workdir, console)
        saves = CheckpointHook(
            checkpoints, data.source, log, stop, run_json, parts.kept, every=config.checkpoint.every, last=last
        )
        try:
            if resumed is None and config.eval.every:
                evals.evaluate(0, state)
            state = fit(state, parts.step, data.source, last, [log, evals, saves])
        finally:
            for writer in writers:
                writer.close()
        checkpoints.wait()
        shown = isinstance(data.source, RolloutSource)  # it has shown answers all along
        if "policy" in parts.algo.trained and not shown and (resumed is None or resumed < last):
            write_sample(config, parts, data, state, start, console)
    if is_main():
        console.note(f"done: {write_report(workdir)}")
    return state


def evaluation(
    config: Config, parts: Assembly, data: Datasets, judge: Judge | None, start: Begin
) -> Callable[[TrainState], dict[str, dict[str, float]]]:
    """`evaluate(state)` as `EvalHook` wants it; what is more than a number goes to a file of its own."""
    tasks = open_tasks(config, parts, start) if config.eval.tasks else None
    evaluate = make_evaluation(config, parts, data.held_out, data.references, judge, tasks)

    def numbers(state: TrainState) -> dict[str, dict[str, float]]:
        found = evaluate(state)
        details = {name: figures.pop("details") for name, figures in found.items() if "details" in figures}
        if details and is_main():
            write_details(Path(config.workdir), {"step": int(state.step), "sets": details})
        return found

    return numbers


def open_tasks(config: Config, parts: Assembly, start: Begin) -> Callable[[Params], dict[str, dict[str, float]]]:
    """The accuracies of a policy on the tasks of `eval.tasks`."""
    return make_task_evaluation(
        config.eval.tasks,
        parts.models["policy"],
        parts.mesh,
        start.tokenizer,
        start.template or find_template(start.tokenizer, None),
        config.model.context,
    )
