"""Log-probabilities of a data set under the reference model: computed once, and kept beside the tokenised data."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.core.answers import log_probs
from jaxrl_llm.data.config import PreferenceDataConfig
from jaxrl_llm.data.groups import GroupStore
from jaxrl_llm.data.preferences import eval_groups, mismatched_answers
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.errors import StorageFailed
from jaxrl_llm.heldout import MISMATCHED
from jaxrl_llm.parallel.distributed import agree, is_main
from jaxrl_llm.types import Answers, Params


def cached_references(
    config: Config,
    parts: Assembly,
    stores: Mapping[str, SequenceStore],
    weights: Callable[[], Params],
    fingerprint: str,
) -> dict[str, np.ndarray]:
    """Corpus -> float32 [answers], nats, summed over each answer; of KTO's mismatched answers under NAME/mismatched.

    All processes come here together, since each has a part of the weights.

    Args:
        config: the run's.
        parts: the run's, whose policy computes them.
        stores: what is trained on, or held out.
        weights: whole, of the policy that the run begins with: that is the reference.  Asked for where none are kept.
        fingerprint: of these weights; the file of another reference, or in another dtype, has another name.
    """
    assert isinstance(config.data, PreferenceDataConfig)
    score = make_log_probs(parts)
    found = {}
    for name, store in stores.items():
        wanted: dict[str, GroupStore] = {name: store}
        if parts.algo.mismatched:
            wanted[name + MISMATCHED] = mismatched_answers(store, config.data)
        for key, group in wanted.items():
            suffix = "-mismatched" if key.endswith(MISMATCHED) else ""
            file = store.path / f"reference-{fingerprint[:32]}-{parts.fixed_dtype.name}{suffix}.npy"
            if not agree(not file.is_file()):
                found[key] = np.load(file)
                continue
            found[key] = reference_of(config, parts, group, score, weights())
            if is_main():
                keep(file, found[key])
    return found


def make_log_probs(parts: Assembly) -> jax.stages.Wrapped:
    """Jitted: (policy's weights, answers) -> [N], whole on every device."""
    policy = parts.models["policy"]

    def score(weights: Params, answers: Answers) -> Array:
        return log_probs(policy.token_scores, weights, answers)

    return jax.jit(score, out_shardings=NamedSharding(parts.mesh, PartitionSpec()))


def reference_of(
    config: Config, parts: Assembly, store: GroupStore, score: jax.stages.Wrapped, weights: Params
) -> np.ndarray:
    """One store's, float32 [answers]."""
    assert isinstance(config.data, PreferenceDataConfig)
    size = config.training.batch_size // config.training.micro_batches
    out = np.full(len(store.answer_lengths), np.nan, np.float32)
    for batch, where in progress(
        eval_groups(
            store,
            config.data,
            noun=parts.algo.consumes,
            head="lm",
            batch_size=size,
            sharding=parts.rows_sharding,
        ),
        -(-len(store.prompt_lengths) // size),
        quiet=config.logging.quiet,
    ):
        filled_N = where.answer_N >= 0
        out[where.answer_N[filled_N]] = jax.device_get(score(weights["policy"], batch.answers))[filled_N]
    assert not np.isnan(out).any(), "every answer has been scored"
    return out


def progress(items: Iterator[Any], total: int, quiet: bool) -> Iterator[Any]:
    """A bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal and not quiet and is_main()
    yield from track(items, "reference log-probs", total, console=console, transient=True, disable=not shown)


def keep(file: "os.PathLike[str]", array: np.ndarray) -> None:
    """Write it whole, or not at all."""
    draft = f"{os.fspath(file)}.{os.getpid()}.draft"
    try:
        with open(draft, "wb") as stream:
            np.save(stream, array)
        os.replace(draft, file)
    except OSError as error:
        raise StorageFailed(f"{file}: cannot be written: {error.strerror}") from error
