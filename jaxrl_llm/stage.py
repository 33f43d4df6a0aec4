"""One stage of training from its config to its report: opens, resumes, loops, evaluates, samples, reports."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.begin import Begin, begin
from jaxrl_llm.config import Config, Resolved, dump, resolve
from jaxrl_llm.data.build_sequences import describe, quarantine
from jaxrl_llm.data.chat import chat_stop_ids, find_template
from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.datasets import Datasets, open_datasets
from jaxrl_llm.errors import Preempted, UserError
from jaxrl_llm.heldout import Judge, make_evaluation, make_judge
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.chips import describe_devices, device_memory, peak_flops
from jaxrl_llm.parallel.distributed import is_main, main_first
from jaxrl_llm.report import write_report
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.score_scale import measure_scale
from jaxrl_llm.tasks_eval import make_task_evaluation
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.console import Console
from jaxrl_llm.training.hooks import CheckpointHook, EvalHook, LogHook, StopSignal
from jaxrl_llm.training.loop import fit
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import (
    QUARANTINE,
    Writer,
    append_sample,
    append_samples,
    open_writers,
    write_details,
    write_facts,
)
from jaxrl_llm.types import Json, Params, TrainState
from jaxrl_llm.workdir import claim

SAMPLE_TOKENS = 200  # of text written at the end of a run


def train(path: str, overrides: Sequence[str] = ()) -> Path:
    """Run the stage that a config describes, or what is left of it; returns its run directory."""
    runtime.start()
    resolved = resolve(path, overrides)
    config, workdir = resolved.config, Path(resolved.config.workdir)
    if config.training.steps == 0:
        raise UserError(f"{path}: training.steps=0 trains nothing\n  mend: another config, with init_from: THIS RUN")
    start = begin(config)
    parts = assemble(config)
    data = open_datasets(config, parts, start)
    main_first(lambda: take(workdir, resolved, data) if is_main() else None)
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
    return workdir


def take(workdir: Path, resolved: Resolved, data: Datasets) -> None:
    """Claim the run directory, and keep there the rows that were skipped when the data was read."""
    claim(workdir, resolved)
    quarantine(data.sequences().values(), workdir / QUARANTINE)


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
        flops_per_token=parts.flops_per_token,
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
        if "policy" in parts.algo.trained and (resumed is None or resumed < last):
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


def listen(data: Datasets, workdir: Path, console: Console) -> None:
    """Keep and show what the source of rollouts has to tell."""
    if not isinstance(data.source, RolloutSource) or not is_main():
        return

    def on_samples(rows: list[Json]) -> None:
        append_samples(workdir, rows)
        console.samples(rows)

    data.source.on_samples = on_samples
    data.source.warn = lambda text: console.note(f"warning: {text}")


def headline(config: Config, parts: Assembly, data: Datasets, resumed: int | None) -> str:
    """What runs where, on what, in some lines; and where it continues."""
    shape = " x ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items() if size > 1)
    devices = describe_devices(list(parts.mesh.devices.flat)) + (f" ({shape})" if shape else "")
    trained = "" if parts.n_trained == parts.n_params else f", {parts.n_trained:,} trained,"
    lines = [f"{config.algo.kind}: {parts.n_params:,} parameters{trained} on {devices} -> {config.workdir}"]
    if config.init_from is None and resumed is None and config.algo.kind != "pretrain":
        lines += ["init_from is not set: this run begins with random weights"]
    lines += [f"{name}: {describe(store)}" for name, store in data.sequences().items()]
    if (aside := Path(config.workdir) / QUARANTINE).is_file():
        lines += [f"skipped rows of the wrong form: {len(aside.read_bytes().splitlines()):,}, kept in {aside}"]
    if resumed is not None and resumed >= config.training.steps:
        lines += [f"step {resumed} is done: nothing is left to do; training.steps={2 * resumed} would go on"]
    elif resumed is not None:
        lines += [f"resuming from step {resumed} of {config.training.steps}"]
    return "\n".join(lines)


def facts(parts: Assembly, data: Datasets) -> Json:
    """What the report says besides the config and the metrics."""
    rows = {name: {"used": store.n_examples, **store.counts} for name, store in data.sequences().items()}
    return {
        "parameters": parts.n_params,
        **({} if parts.n_trained == parts.n_params else {"trained parameters": parts.n_trained}),
        **({"rows": rows} if rows else {}),
        "devices": describe_devices(list(parts.mesh.devices.flat)),
        "jax": jax.__version__,
    }


def write_sample(
    config: Config, parts: Assembly, data: Datasets, state: TrainState, start: Begin, console: Console
) -> None:
    """A little of what the model now writes, to the console and to samples.jsonl: from nothing, or to a prompt."""
    tokenizer = start.tokenizer
    prompt = a_prompt(data) or [tokenizer.bos_id]
    stops = chat_stop_ids(tokenizer, start.template) if start.template else tokenizer.stop_ids
    sampler = Sampler(
        parts.models["policy"],
        parts.mesh,
        SamplingConfig(temperature=0.8),
        stop_ids=sorted(stops),
        context=config.model.context,
        slots=1,
    )
    step, longest = int(state.step), min(SAMPLE_TOKENS, config.model.context - len(prompt))
    if longest < 1:
        return
    weights = parts.whole(parts.shown(state), "policy")
    found, _ = sampler(weights, [prompt], max_new_tokens=longest, seed=(config.seed + step) % 2**32)
    text, asked = tokenizer.decode(found[0][0].tokens, continued=len(prompt) > 1), tokenizer.decode(prompt)
    if is_main():
        append_sample(Path(config.workdir), step, asked, text)
    console.note(f"--- a sample, temperature 0.8\n{asked}{text}\n---")


def a_prompt(data: Datasets) -> list[int]:
    """The first held-out prompt, or the first of those trained on; of text there is none."""
    if isinstance(data.source, RolloutSource):
        return [*data.source.prompts[0].ids]
    stores = [rows.store for rows in data.held_out.rows.values() if isinstance(rows, ChatRows)]
    stores = [*stores, *data.held_out.groups.values(), *data.stores.values()]
    store = next((store for store in stores if isinstance(store, SequenceStore)), None)
    if store is None:
        return []
    ids, weights = store.answer(0, 0)
    return [*store.prompt(0).tolist(), *ids[: int((weights > 0).argmax())].tolist()]
