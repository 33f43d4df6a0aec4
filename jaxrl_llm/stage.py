"""One stage of training from its config to its report: opens, resumes, loops, evaluates, samples, reports."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax

from jaxrl_llm.assemble import Assembly, assemble
from jaxrl_llm.config import Config, Resolved, dump, resolve
from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.corpora import SINGLE, open_corpora, open_holdouts, training_source
from jaxrl_llm.data.rows import PackedRows
from jaxrl_llm.data.source import DataSource, check_batch, eval_batches
from jaxrl_llm.data.tokenizers import Tokenizer, make_tokenizer
from jaxrl_llm.errors import Preempted, UserError
from jaxrl_llm.evals.perplexity import make_scorer, perplexity
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.chips import describe_devices, device_memory, peak_flops
from jaxrl_llm.parallel.distributed import is_main, main_first
from jaxrl_llm.report import write_report
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.console import Console
from jaxrl_llm.training.hooks import CheckpointHook, EvalHook, LogHook, StopSignal
from jaxrl_llm.training.loop import fit
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import Writer, append_sample, open_writers, write_facts
from jaxrl_llm.types import Head, Params, TrainState
from jaxrl_llm.workdir import Card, SavedModel, claim, find_model, has_checkpoint

Evaluate = Callable[[Params], dict[str, dict[str, float]]]

SAMPLE_TOKENS = 200  # of text written at the end of a run


def train(path: str, overrides: Sequence[str] = ()) -> Path:
    """Run the stage that a config describes, or what is left of it; returns its run directory."""
    runtime.start()
    resolved = resolve(path, overrides)
    config, workdir = resolved.config, Path(resolved.config.workdir)
    if config.training.steps == 0:
        raise UserError(f"{path}: training.steps=0 trains nothing\n  mend: another config, with init_from: THIS RUN")
    begun = find_model(workdir) if has_checkpoint(workdir) else None  # a run that goes on has all it needs in itself
    initial = find_model(config.init_from) if config.init_from and begun is None else begun
    tokenizer = choose_tokenizer(config, initial)
    parts = assemble(config)
    if initial is not None and begun is None:
        refuse_other_model(config, initial, parts.algo.trained)
    card = Card(tokenizer, parts.algo.trained)
    source = main_first(lambda: open_source(config, parts, tokenizer))
    evaluate = main_first(lambda: make_evaluation(config, parts, tokenizer))
    main_first(lambda: claim(workdir, resolved) if is_main() else None)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    try:
        state, resumed = start(config, parts, checkpoints, source, initial)
        state = run_loop(resolved, parts, state, source, evaluate, checkpoints, card, resumed)
    except Preempted as error:
        again = shlex.join(["jaxrl-llm", "train", path, *overrides])
        raise Preempted(f"{error}\n  continue with: {again}") from None
    finally:
        source.close()
        checkpoints.close()
    return workdir


def choose_tokenizer(config: Config, initial: SavedModel | None) -> Tokenizer:
    """The config's tokenizer; a run that starts from another must have the other's."""
    if initial is None:
        tokenizer = make_tokenizer(config.tokenizer)
    else:
        tokenizer = initial.card.tokenizer
        if config.tokenizer != initial.config.tokenizer and make_tokenizer(config.tokenizer).fingerprint != (
            tokenizer.fingerprint
        ):
            raise UserError(
                f"this config's tokenizer is not that of init_from={config.init_from}, whose ids its weights know\n"
                "  mend: leave out the section `tokenizer`"
            )
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model room for {config.model.vocab_size:,}\n"
            f"  mend: model.vocab_size={tokenizer.vocab_size} or more"
        )
    return tokenizer


def open_source(config: Config, parts: Assembly, tokenizer: Tokenizer) -> DataSource:
    """The training batches; token stores are built where they are not there yet."""
    return training_source(
        open_corpora(config.data, tokenizer, progress=not config.logging.quiet),
        config.data,
        seed=config.seed,
        batch_size=config.training.batch_size,
        micro_batches=config.training.micro_batches,
        sharding=parts.batch_sharding,
    )


def make_evaluation(config: Config, parts: Assembly, tokenizer: Tokenizer) -> Evaluate:
    """`evaluate(params)`: loss, perplexity and bits per byte of every held-out set, by its name."""
    stores = open_holdouts(config.data, tokenizer, progress=not config.logging.quiet)
    stores = {"validation" if name == SINGLE else name: store for name, store in stores.items()}
    for name, corpus in config.eval.corpora.items():
        part: Literal["train", "holdout"] = "holdout" if corpus.holdout else "train"
        stores[name] = build_store(
            corpus, part, tokenizer, config.data.cache_dir, config.data.workers, not config.logging.quiet
        )
    data = config.data
    sets = {name: PackedRows(store, data.length, "concat", data.isolate_documents) for name, store in stores.items()}
    scorer = make_scorer(parts.models["policy"])
    size = config.eval.batch_size or config.training.batch_size // config.training.micro_batches
    check_batch("eval.batch_size", size, 1, parts.rows_sharding)

    def evaluate(params: Params) -> dict[str, dict[str, float]]:
        found = {}
        for name, rows in sets.items():
            batches = eval_batches(rows, size, parts.rows_sharding, config.eval.max_rows)
            targets = rows.store.n_tokens - rows.store.n_documents
            found[name] = perplexity(scorer, params["policy"], batches, rows.store.n_bytes / targets)
        return found

    return evaluate


def start(
    config: Config, parts: Assembly, checkpoints: Checkpoints, source: DataSource, initial: SavedModel | None
) -> tuple[TrainState, int | None]:
    """The state to go on from, and the step it was saved at: the newest checkpoint, else `init_from`, else random."""
    step = checkpoints.latest()
    if step is not None:
        saved = checkpoints.restore(step, parts.template)
        source.restore(saved.source, saved.arrays)
        return saved.state, step
    if initial is None:
        return parts.new_state(parts.init_params(config.seed)), None
    params = initial.weights(parts.models, parts.mesh)
    kept = initial.optimizer(parts.template.opt_state) if config.init_optimizer and initial.optimizer else None
    return parts.new_state(params, kept), None


def refuse_other_model(config: Config, initial: SavedModel, trained: Mapping[str, Head]) -> None:
    """A UserError where `init_from` does not have what this run takes from it: its roles, its shapes, an optimizer."""
    if trained.items() - initial.card.heads.items():
        there, here = (", ".join(f"{role} ({head})" for role, head in x.items()) for x in (initial.card.heads, trained))
        raise UserError(f"init_from={config.init_from} holds {there}; algo.kind={config.algo.kind} trains {here}")
    if config.init_optimizer and initial.optimizer is None:
        raise UserError(
            f"init_from={config.init_from} is a Hugging Face directory, which has no optimizer state\n"
            "  mend: init_optimizer=false"
        )
    if config.init_optimizer and config.optim.kind != initial.config.optim.kind:
        raise UserError(
            f"init_from={config.init_from} was trained with optim.kind={initial.config.optim.kind}, whose state "
            f"{config.optim.kind} cannot use\n  mend: init_optimizer=false, or that optim.kind"
        )
    ours, theirs = vars(config.model), vars(initial.config.model)
    keys = [key for key in ours if key not in ("preset", "context") and ours[key] != theirs[key]]
    if keys:
        lines = [f"  model.{key}: {theirs[key]!r} there, {ours[key]!r} here" for key in keys]
        raise UserError(
            "\n".join([f"init_from={config.init_from} is a model of another shape:", *lines])
            + "\n  mend: leave out the section `model`, which then is that of init_from"
        )


def run_loop(
    resolved: Resolved,
    parts: Assembly,
    state: TrainState,
    source: DataSource,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    card: Card,
    resumed: int | None,
) -> TrainState:
    """The loop with all that hangs on it, and what follows it: a sample and the report."""
    config, workdir, last = resolved.config, Path(resolved.config.workdir), resolved.config.training.steps
    watch = Throughput(
        tokens_per_step=parts.tokens_per_step,
        flops_per_token=parts.flops_per_token,
        peak_flops=peak_flops(list(parts.mesh.devices.flat)),
    )
    writers: tuple[Writer, ...] = ()
    if is_main():
        logging = config.logging
        writers = open_writers(workdir, resumed=resumed, tensorboard=logging.tensorboard, wandb=logging.wandb)
        write_facts(workdir, facts(parts))
    console = Console(
        total_steps=last,
        throughput=watch,
        start_step=resumed or 0,
        memory=device_memory().of,
        quiet=config.logging.quiet or not is_main(),
    )
    log = LogHook(console, writers, watch, every=config.training.log_every, last=last, tokens=parts.tokens_per_step)
    evals = EvalHook(evaluate, log, every=config.eval.every, last=last)
    with console, StopSignal(console.note) as stop:
        console.note(headline(config, parts, resumed))
        run = card.to_json() | {"config": dump(resolved)}
        saves = CheckpointHook(checkpoints, source, log, stop, run, every=config.checkpoint.every, last=last)
        try:
            if resumed is None and config.eval.every:
                evals.evaluate(0, state)
            state = fit(state, parts.step, source, last, [log, evals, saves])
        finally:
            for writer in writers:
                writer.close()
        checkpoints.wait()
        if resumed is None or resumed < last:
            write_sample(config, parts, state, card.tokenizer, console)
    if is_main():
        console.note(f"done: {write_report(workdir)}")
    return state


def headline(config: Config, parts: Assembly, resumed: int | None) -> str:
    """What runs where, in a line; and where it continues."""
    shape = " x ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items() if size > 1)
    devices = describe_devices(list(parts.mesh.devices.flat)) + (f" ({shape})" if shape else "")
    text = f"{config.algo.kind}: {parts.n_params:,} parameters on {devices} -> {config.workdir}"
    if resumed is None:
        return text
    if resumed >= config.training.steps:
        return f"{text}\nstep {resumed} is done: nothing is left to do; training.steps={2 * resumed} would go on"
    return f"{text}\nresuming from step {resumed} of {config.training.steps}"


def facts(parts: Assembly) -> dict[str, int | str]:
    """What the report says besides the config and the metrics."""
    return {
        "parameters": parts.n_params,
        "devices": describe_devices(list(parts.mesh.devices.flat)),
        "jax": jax.__version__,
    }


def write_sample(config: Config, parts: Assembly, state: TrainState, tokenizer: Tokenizer, console: Console) -> None:
    """A little of what the model now writes, to the console and to samples.jsonl."""
    sampler = Sampler(
        parts.models["policy"],
        parts.mesh,
        SamplingConfig(temperature=0.8),
        stop_ids=sorted(tokenizer.stop_ids),
        context=config.model.context,
        slots=1,
    )
    step, longest = int(state.step), min(SAMPLE_TOKENS, config.model.context - 1)
    found, _ = sampler(
        state.params["policy"], [[tokenizer.bos_id]], max_new_tokens=longest, seed=(config.seed + step) % 2**32
    )
    text = tokenizer.decode(found[0][0].tokens)
    if is_main():
        append_sample(Path(config.workdir), step, "", text)
    console.note(f"--- a sample, temperature 0.8\n{text}\n---")
