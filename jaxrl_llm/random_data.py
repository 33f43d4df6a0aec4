"""Random data of a chosen size, for measurements: what `bench` trains on instead of what people wrote."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import DataConfig, PreferenceDataConfig
from jaxrl_llm.data.encode import Encoded
from jaxrl_llm.data.mixture import SINGLE
from jaxrl_llm.data.preferences import preference_source
from jaxrl_llm.data.sequences import write_sequences
from jaxrl_llm.errors import UserError
from jaxrl_llm.types import Pairs, Tokens


def random_batch(config: Config, parts: Assembly, prompt_length: int, answer_length: int) -> tuple[Any, int]:
    """A batch [M, ...] sharded as the source's are, and how many places its rows have.

    Of text: whole rows.  Of a chat: in each row a prompt and an answer, of which the answer is trained on.  Of
    preferences: prompts with two answers, or judged answers; where the reference is cached, its log-probabilities are
    zeros.
    """
    if not isinstance(config.data, DataConfig) and prompt_length + answer_length > config.length:
        raise UserError(
            f"--prompt-length {prompt_length} and --answer-length {answer_length} do not fit into a row of "
            f"data.length={config.length}\n  mend: data.length={prompt_length + answer_length} or more"
        )
    if isinstance(config.data, PreferenceDataConfig):
        return random_answers(config, config.data, parts, prompt_length, answer_length)
    first = 0 if isinstance(config.data, DataConfig) else prompt_length
    last = config.length if isinstance(config.data, DataConfig) else prompt_length + answer_length
    return random_rows(config, parts, first, last), config.training.batch_size * config.length


def random_rows(config: Config, parts: Assembly, first: int, last: int) -> Tokens:
    """One document a row, whose tokens first .. last - 1 are trained on."""
    n_micro = config.training.micro_batches
    shape = (n_micro, config.training.batch_size // n_micro, config.length)
    ids = np.random.default_rng(config.seed).integers(0, config.model.vocab_size, (2, *shape), dtype=np.int32)
    places = np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    one_text = isinstance(config.data, DataConfig) and not config.data.isolate_documents
    arrays = {
        "inputs_BT": ids[0],
        "targets_BT": ids[1],
        "weights_BT": ((places >= first) & (places < last)).astype(np.float32),
        "segments_BT": None if one_text else (places < last).astype(np.int32),
        "positions_BT": places,
    }
    return Tokens(**jax.device_put(arrays, parts.batch_sharding))


def random_answers(
    config: Config, data: PreferenceDataConfig, parts: Assembly, prompt_length: int, answer_length: int
) -> tuple[Any, int]:
    """Through the very source of `train`, from a store of its own."""
    n, k = config.training.batch_size, 2 if parts.algo.consumes is Pairs else 1
    rng, weights = np.random.default_rng(config.seed), [1.0] * answer_length

    def ids(length: int) -> list[int]:
        return rng.integers(0, config.model.vocab_size, length).tolist()

    examples = [
        Encoded(
            ids(prompt_length),
            [(ids(answer_length), weights) for _ in range(k)],
            ranks=tuple(range(k)),
            safe=(True,) * k,
            label=number % 2,
        )
        for number in range(n)
    ]
    with tempfile.TemporaryDirectory() as folder:  # its arrays stay readable while they are mapped
        store = write_sequences(Path(folder) / "store", examples)
    zeros = np.zeros(n * k, np.float32)
    source = preference_source(
        {SINGLE: store},
        dataclasses.replace(data, path=SINGLE, mix={}),  # this store stands for all corpora
        noun=parts.algo.consumes,
        head=next(iter(parts.algo.trained.values())),
        steps=1,
        seed=config.seed,
        batch_size=n,
        micro_batches=config.training.micro_batches,
        sharding=parts.batch_sharding,
        references={SINGLE: zeros, f"{SINGLE}/mismatched": zeros} if config.algo.cached else None,
        mismatch=parts.algo.mismatched,
    )
    batch, _ = source.next(None)  # type: ignore[arg-type]  # fixed data ask for no state
    source.close()
    return batch, source.tokens_per_step
