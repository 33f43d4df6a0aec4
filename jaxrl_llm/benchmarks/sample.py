"""`bench sample`: the sampler on random prompts and weights."""

import time
from collections.abc import Sequence

import numpy as np

from jaxrl_llm.assemble import assemble
from jaxrl_llm.benchmarks.figures import Figures, describe_mesh, describe_model, peak_memory
from jaxrl_llm.config import Config
from jaxrl_llm.rollout.sampler import Sampler, Stats
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.training.console import si


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
        "model": describe_model(config, parts),
        "work": f"{prompts} prompts of {prompt_length} x {n} completions of {describe_lengths(limits)}, {slots} slots",
        "devices": describe_mesh(parts.mesh),
        "tokens/s": si(stats.tokens / seconds),
        "time": f"{seconds:.2f} s, {1e3 * seconds / steps:.2f} ms a step, prompts included",
        "prompts run": f"{stats.prefills} in {stats.prefill_rows} rows, for {stats.completions} completions",
        "slot occupancy": f"{100 * stats.occupancy:.1f} %",
        "memory, peak": peak_memory(),
    }
    if spread is not None:
        waiting, _ = measure(refill=False)
        figures["refilling"] = f"{waiting / seconds:.2f} times as fast as waiting for the longest"
    return figures


def describe_lengths(lengths: Sequence[int]) -> str:
    """`256`, or `16 to 512`."""
    return f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
