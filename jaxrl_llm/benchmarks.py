"""Measurements behind `jaxrl-llm bench`: of the very objects that training and sampling build."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_llm.assemble import assemble
from jaxrl_llm.begin import begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import DataConfig
from jaxrl_llm.datasets import open_datasets
from jaxrl_llm.parallel.chips import describe_devices, device_memory, peak_flops
from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.random_data import random_batch
from jaxrl_llm.rollout.sampler import Sampler, Stats
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.training.console import Console, digits, si
from jaxrl_llm.training.hooks import LogHook
from jaxrl_llm.training.loop import fit
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import open_writers
from jaxrl_llm.types import Pairs

Figures = dict[str, str]  # label -> figure
WARM = 10  # steps of the loop before those that are timed


def bench_train(
    config: Config, steps: int, warmup: int, began: float, prompt_length: int = 256, answer_length: int = 256
) -> Figures:
    """The step of `train` on random data; `began` is when the command did, the lengths are those of judged answers."""
    parts = assemble(config)
    state = parts.new_state(parts.init_params(config.seed), config.seed)
    batch, places = random_batch(config, parts, prompt_length, answer_length)
    before = time.perf_counter()
    inputs = (state.step, state.params, state.opt_state, state.fixed, batch)
    compiled = parts.step.jitted.lower(*inputs).compile()
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
    flops, peak = tokens_per_s * parts.flops_per_token, peak_flops(list(parts.mesh.devices.flat))
    memory, analysis = device_memory(), compiled.memory_analysis()
    return {
        "model": f"{config.model.preset or 'own'}, {parts.n_params:,} parameters",
        "batch": describe_batch(config, places, prompt_length, answer_length),
        "compute": f"{config.compute.layers}, remat {config.compute.remat}, attention {config.compute.attention}",
        "devices": describe_devices(list(parts.mesh.devices.flat)),
        "step": f"{1e3 * step_s:,.1f} ms over {steps} steps",
        "tokens/s": si(tokens_per_s),
        "TFLOP/s": digits(flops / 1e12),
        "share of peak": "unknown chip" if peak is None else f"{100 * flops / peak:.1f} %",
        "memory, peak": f"{memory.peak / 2**30:.2f} GiB of the {memory.of}",
        "memory, compiler's": "not said" if analysis is None else compiled_memory(analysis),
        "compile": f"{compile_s:.1f} s",
        "first step": f"{first_s:.1f} s after the command",
    }


def describe_batch(config: Config, places: int, prompt_length: int, answer_length: int) -> str:
    """Of what a batch consists, and the rows that it takes."""
    pieces = f"in {config.training.micro_batches} piece(s)"
    if isinstance(config.data, DataConfig):
        return f"{config.training.batch_size} x {config.data.length} {pieces}"
    answers = "2 x " if config.algo.consumes is Pairs else ""
    of = f"{config.training.batch_size} of {prompt_length} + {answers}{answer_length} tokens"
    return f"{of} in {places // config.data.length} rows of {config.data.length}, {pieces}"


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
    watch = Throughput(tokens_per_step=source.tokens_per_step, flops_per_token=parts.flops_per_token)
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
        "batch": f"{config.training.batch_size} x {config.data.length}",
        "log_every": str(config.training.log_every),
        "host time a step": f"{1e3 * loop_s:.3f} ms over {steps - 1} steps that do nothing",
    }


def bench_sample(
    config: Config,
    prompts: int,
    prompt_length: int,
    new_tokens: int,
    n: int,
    slots: int,
    spread: tuple[int, int] | None,
) -> Figures:
    """The sampler on random prompts and weights; no end tokens, so that every completion has the length asked for.

    With `spread` lengths are drawn evenly from there, once with slots refilled and once waiting for the longest.
    """
    parts = assemble(config)
    params = parts.init_params(config.seed)["policy"]
    rng = np.random.default_rng(config.seed)
    ids = rng.integers(0, config.model.vocab_size, (prompts, prompt_length)).tolist()
    limits = [new_tokens] * prompts if spread is None else rng.integers(spread[0], spread[1] + 1, prompts).tolist()

    def measure(refill: bool) -> tuple[float, Stats]:
        sampler = Sampler(
            parts.models["policy"],
            parts.mesh,
            SamplingConfig(),
            stop_ids=(),
            context=prompt_length + max(limits),
            slots=min(slots, prompts * n),
            refill=refill,
        )
        sampler(params, ids, n=n, max_new_tokens=limits, seed=0)  # compiles
        before = time.perf_counter()
        _, stats = sampler(params, ids, n=n, max_new_tokens=limits, seed=1)
        return time.perf_counter() - before, stats

    seconds, stats = measure(refill=True)
    steps = stats.slot_steps // stats.slots
    figures = {
        "model": f"{config.model.preset or 'own'}, {parts.n_params:,} parameters",
        "work": f"{prompts} prompts of {prompt_length} x {n} completions of {describe_lengths(limits)}, {slots} slots",
        "devices": describe_devices(list(parts.mesh.devices.flat)),
        "tokens/s": si(stats.tokens / seconds),
        "time": f"{seconds:.2f} s, {1e3 * seconds / steps:.2f} ms a step, prompts included",
        "prompts run": f"{stats.prefills} in {stats.prefill_rows} rows, for {stats.completions} completions",
        "slot occupancy": f"{100 * stats.occupancy:.1f} %",
        "memory, peak": f"{device_memory().peak / 2**30:.2f} GiB of the {device_memory().of}",
    }
    if spread is not None:
        waiting, _ = measure(refill=False)
        figures["refilling"] = f"{waiting / seconds:.2f} times as fast as waiting for the longest"
    return figures


def describe_lengths(lengths: Sequence[int]) -> str:
    """`256`, or `16 to 512`."""
    return f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
