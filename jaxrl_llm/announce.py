"""What a stage tells: what runs where, samples while it runs, and a little of what the model now writes."""

from pathlib import Path

import jax

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.begin import Begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.build_sequences import describe
from jaxrl_llm.data.chat import chat_stop_ids
from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.datasets import Datasets
from jaxrl_llm.parallel.chips import describe_devices
from jaxrl_llm.parallel.distributed import is_main
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.training.console import Console
from jaxrl_llm.training.writers import QUARANTINE, append_sample, append_samples
from jaxrl_llm.types import Json, TrainState

SAMPLE_TOKENS = 200  # of text written at the end of a run


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
    stores = [rows.store for rows in data.held_out.rows.values() if isinstance(rows, ChatRows)]
    stores = [*stores, *data.held_out.groups.values(), *data.stores.values()]
    store = next((store for store in stores if isinstance(store, SequenceStore)), None)
    if store is None:
        return []
    ids, weights = store.answer(0, 0)
    return [*store.prompt(0).tolist(), *ids[: int((weights > 0).argmax())].tolist()]


def listen(data: Datasets, workdir: Path, console: Console) -> None:
    """Keep and show what the source of rollouts has to tell."""
    if not isinstance(data.source, RolloutSource) or not is_main():
        return

    def on_samples(rows: list[Json]) -> None:
        append_samples(workdir, rows)
        console.samples(rows)

    data.source.on_samples = on_samples
    data.source.warn = lambda text: console.note(f"warning: {text}")
