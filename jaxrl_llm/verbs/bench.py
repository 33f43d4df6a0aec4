"""`bench train CONFIG`: how fast the very step that `train` builds runs here, as a table.

`bench loop CONFIG` measures the loop's own host time instead: data, logging and hooks around a step that does nothing.
"""

import argparse
import time
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import add_config

if TYPE_CHECKING:
    from jaxrl_llm.config import Config

HELP = "measure a training step: tokens/s, TFLOP/s, share of peak, memory, compile time"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("what", choices=("train", "loop"), help="train: the step; loop: the host's own time around it")
    add_config(parser)
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed (default 10)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default 2)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns 0."""
    if args.steps < 1 or args.warmup < 1:
        raise UserError("--steps and --warmup must be at least 1")
    began = time.perf_counter()
    from jaxrl_llm.config import resolve
    from jaxrl_llm.parallel import runtime

    runtime.start()
    config = resolve(args.config, args.overrides).config
    rows = (
        bench_train(config, args.steps, args.warmup, began) if args.what == "train" else bench_loop(config, args.steps)
    )
    print_table(f"bench {args.what}: {args.config}", rows)
    return 0


def bench_train(config: "Config", steps: int, warmup: int, began: float) -> dict[str, str]:
    """The step of `train` on random rows; label -> figure."""
    import jax

    from jaxrl_llm.assemble import assemble
    from jaxrl_llm.parallel.chips import describe_devices, device_memory, peak_flops
    from jaxrl_llm.training.console import digits, si

    parts = assemble(config)
    state = parts.new_state(parts.init_params(config.seed))
    batch = random_batch(config, parts)
    before = time.perf_counter()
    inputs = (state.step, state.params, state.opt_state, state.fixed, batch)
    compiled = parts.step.jitted.lower(*inputs).compile()  # type: ignore[attr-defined]
    compile_s = time.perf_counter() - before
    state, metrics = parts.step(state, batch)
    jax.block_until_ready(metrics)
    first_s = time.perf_counter() - began
    for _ in range(warmup - 1):
        state, metrics = parts.step(state, batch)
    jax.block_until_ready(metrics)
    before = time.perf_counter()
    for _ in range(steps):
        state, metrics = parts.step(state, batch)
    jax.block_until_ready(metrics)
    step_s = (time.perf_counter() - before) / steps
    tokens_per_s = parts.tokens_per_step / step_s
    flops, peak = tokens_per_s * parts.flops_per_token, peak_flops(list(parts.mesh.devices.flat))
    memory, analysis = device_memory(), compiled.memory_analysis()
    return {
        "model": f"{config.model.preset or 'own'}, {parts.n_params:,} parameters",
        "batch": f"{config.training.batch_size} x {config.data.length} in {config.training.micro_batches} piece(s)",
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


def compiled_memory(analysis: Any) -> str:
    """The compiler's own account, per device."""
    state, temporary = analysis.argument_size_in_bytes / 2**30, analysis.temp_size_in_bytes / 2**30
    return f"{state:.2f} GiB of arguments + {temporary:.2f} GiB of temporaries a device"


def random_batch(config: "Config", parts: Any) -> Any:
    """A batch [M, b, T] of random ids, one document a row, sharded as the source's are."""
    import jax
    import numpy as np

    from jaxrl_llm.types import Tokens

    n_micro = config.training.micro_batches
    shape = (n_micro, config.training.batch_size // n_micro, config.data.length)
    rng = np.random.default_rng(config.seed)
    ids = rng.integers(0, config.model.vocab_size, (2, *shape), dtype=np.int32)
    ones, positions = np.ones(shape, np.int32), np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    segments = ones if config.data.isolate_documents else None
    arrays = {
        "inputs_BT": ids[0],
        "targets_BT": ids[1],
        "weights_BT": ones.astype(np.float32),
        "segments_BT": segments,
        "positions_BT": positions,
    }
    return Tokens(**jax.device_put(arrays, parts.batch_sharding))


def bench_loop(config: "Config", steps: int) -> dict[str, str]:
    """The loop of `train` on the config's own data, around a step that does nothing; label -> figure."""
    import tempfile
    from pathlib import Path

    from jaxrl_llm import stage
    from jaxrl_llm.assemble import assemble
    from jaxrl_llm.training.console import Console
    from jaxrl_llm.training.hooks import LogHook
    from jaxrl_llm.training.loop import fit
    from jaxrl_llm.training.progress import Throughput
    from jaxrl_llm.training.writers import open_writers

    parts = assemble(config)
    source = stage.open_source(config, parts, stage.choose_tokenizer(config, None))
    state, first = parts.step(parts.new_state(parts.init_params(config.seed)), source.next(None)[0])  # type: ignore[arg-type]
    watch = Throughput(tokens_per_step=parts.tokens_per_step, flops_per_token=parts.flops_per_token)
    with tempfile.TemporaryDirectory() as folder:
        writers = open_writers(Path(folder), tensorboard=config.logging.tensorboard)
        console = Console(total_steps=steps, throughput=watch)
        log = LogHook(
            console, writers, watch, every=config.training.log_every, last=steps + 1, tokens=parts.tokens_per_step
        )
        with console:
            fit(state, lambda state, batch: (state, first), source, 10, [log])
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


def print_table(title: str, rows: dict[str, str]) -> None:
    """Two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for label, figure in rows.items():
        table.add_row(label, figure)
    Console().print(table)
