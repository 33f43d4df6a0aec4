"""`bench train`, `bench loop`: a step of `train` on random data, and the loop around one."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from jaxrl_llm.assemble import assemble
from jaxrl_llm.begin import begin
from jaxrl_llm.benchmarks.figures import Figures, describe_compute, describe_mesh, describe_model, peak_memory, speed
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import DataConfig
from jaxrl_llm.datasets import open_datasets
from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.random_data import random_batch
from jaxrl_llm.training.console import Console, si
from jaxrl_llm.training.hooks import LogHook
from jaxrl_llm.training.loop import fit
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import open_writers
from jaxrl_llm.types import Pairs

WARM = 10  # steps of the loop before those that are timed


def bench_train(
    config: Config, steps: int, warmup: int, began: float, prompt_length: int = 256, answer_length: int = 256
) -> Figures:
    """The step of `train` on random data; `began` is when the command did, the lengths are those of judged answers."""
    parts = assemble(config)
    state = parts.new_state(parts.init_params(config.seed), config.seed)
    batch, places = random_batch(config, parts, prompt_length, answer_length)
    before = time.perf_counter()
    compiled = parts.step.lower(state, batch).compile()
    compile_s = time.perf_counter() - before
    state, metrics = parts.step(state, batch)
    jax.block_until_ready(metrics)
    first_s = time.perf_counter() - began
    for _ in range(warmup - 1):
        state, metrics = parts.step(state, batch)
        in_turn(metrics)
    jax.block_until_ready(metrics)
    before = time.perf_counter()
    for _ in range(steps):
        state, metrics = parts.step(state, batch)
        in_turn(metrics)
    jax.block_until_ready(metrics)
    step_s = (time.perf_counter() - before) / steps
    tokens_per_s = places / step_s
    analysis = compiled.memory_analysis()
    return {
        "model": describe_model(config, parts),
        "batch": describe_batch(config, places, prompt_length, answer_length),
        "compute": describe_compute(config),
        "devices": describe_mesh(parts.mesh),
        "step": f"{1e3 * step_s:,.1f} ms over {steps} steps",
        "tokens/s": si(tokens_per_s),
        **speed(tokens_per_s * parts.flops_per_token(config.length), parts.mesh),
        "memory, peak": peak_memory(),
        "memory, compiler's": "not said" if analysis is None else compiled_memory(analysis),
        "compile": f"{compile_s:.1f} s",
        "first step": f"{first_s:.1f} s after the command",
    }


def describe_batch(config: Config, places: int, prompt_length: int, answer_length: int) -> str:
    """Of what a batch consists, and the rows that it takes."""
    pieces = f"in {config.training.micro_batches} piece(s)"
    if isinstance(config.data, DataConfig):
        return f"{config.training.batch_size} x {config.length} {pieces}"
    answers = "2 x " if config.algo.consumes is Pairs else ""
    of = f"{config.training.batch_size} of {prompt_length} + {answers}{answer_length} tokens"
    return f"{of} in {places // config.length} rows of {config.length}, {pieces}"


def compiled_memory(analysis: Any) -> str:
    """The compiler's own account, per device."""
    state, temporary = analysis.argument_size_in_bytes / 2**30, analysis.temp_size_in_bytes / 2**30
    return f"{state:.2f} GiB of arguments + {temporary:.2f} GiB of temporaries a device"


def bench_loop(config: Config, steps: int) -> Figures:
    """The loop of `train` on the config's own data, around a step that does nothing."""
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps + WARM + 1))
    parts = assemble(config)
    start = begin(config)
    source = open_datasets(config, parts, start).source
    state = parts.new_state(start.weights(parts.mesh), config.seed)
    state, first = parts.step(state, source.next(state)[0])
    watch = Throughput(tokens_per_step=source.tokens_per_step, flops_per_token=parts.flops_per_token(config.length))
    with tempfile.TemporaryDirectory() as folder:
        writers = open_writers(Path(folder), tensorboard=config.logging.tensorboard)
        console = Console(total_steps=steps, throughput=watch)
        log = LogHook(
            console, writers, watch, every=config.training.log_every, last=steps + 1, tokens=source.tokens_per_step
        )
        with console:
            fit(state, lambda state, batch: (state, first), source, WARM, [log])
            before = time.perf_counter()
            fit(state, lambda state, batch: (state, first), source, steps, [log])
            loop_s = (time.perf_counter() - before) / (steps - 1)
        for writer in writers:
            writer.close()
    source.close()
    return {
        "batch": f"{config.training.batch_size} x {config.length}",
        "log_every": str(config.training.log_every),
        "host time a step": f"{1e3 * loop_s:.3f} ms over {steps - 1} steps that do nothing",
    }
