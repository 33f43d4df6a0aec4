"""From the config of data to its token stores, and from these to the source of training batches."""

import hashlib
import json
import math
from collections.abc import Mapping

from jax.sharding import NamedSharding

from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.config import CorpusConfig, DataConfig
from jaxrl_llm.data.rows import PackedRows, training_rows
from jaxrl_llm.data.source import DataSource
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError

SMALLEST_SHARE = 1e-3  # of a corpus in a mixture: the mixing rounds smaller ones away
SINGLE = "data"  # the name of the one corpus that `data.path` gives
SHORT = ("path", "format", "field", "separator", "split", "holdout")  # keys of DataConfig that describe it


def named_corpora(data: DataConfig) -> dict[str, CorpusConfig]:
    """The corpora of a config by name: those of `data.mix`, or the one that `data.path` gives.

    Raises:
        UserError: both are given, or neither.
    """
    short = {key: getattr(data, key) for key in SHORT if getattr(data, key) != getattr(DataConfig(), key)}
    if not data.mix and data.path is None:
        raise UserError("there is no data\n  mend: set data.path=FILE, or data.mix.NAME.path=FILE for each of several")
    if data.mix and short:
        given = ", ".join(f"data.{key}" for key in short)
        raise UserError(
            f"{given} describes a single corpus, but data.mix names several ({', '.join(data.mix)})\n"
            f"  mend: say it of each (data.mix.{next(iter(data.mix))}.{next(iter(short))}=...), or leave out data.mix"
        )
    return data.mix or {SINGLE: CorpusConfig(**short)}


def open_corpora(data: DataConfig, tokenizer: Tokenizer, progress: bool = True) -> dict[str, TokenStore]:
    """The training part of every corpus, built where it is not there yet."""
    return {
        name: build_store(corpus, "train", tokenizer, data.cache_dir, data.workers, progress)
        for name, corpus in named_corpora(data).items()
    }


def open_holdouts(data: DataConfig, tokenizer: Tokenizer, progress: bool = True) -> dict[str, TokenStore]:
    """The part kept for evaluation, of every corpus that keeps one."""
    return {
        name: build_store(corpus, "holdout", tokenizer, data.cache_dir, data.workers, progress)
        for name, corpus in named_corpora(data).items()
        if corpus.holdout > 0
    }


def training_source(
    stores: Mapping[str, TokenStore],
    data: DataConfig,
    *,
    seed: int,
    batch_size: int,
    micro_batches: int,
    sharding: NamedSharding,
) -> DataSource:
    """The source of training batches [M, b, T] from what `open_corpora` returned; see `DataSource`.

    Raises:
        UserError: a corpus has fewer rows than a batch takes of it, or micro-batches and devices do not divide a batch.
    """
    corpora = named_corpora(data)
    rows = {
        name: PackedRows(store, data.length, data.packing, data.isolate_documents) for name, store in stores.items()
    }
    weights = {name: corpora[name].weight for name in rows}
    for name, weight in weights.items():
        if weight < SMALLEST_SHARE * sum(weights.values()):
            raise UserError(
                f"data.mix.{name}.weight={weight:g} is less than a thousandth of all weights together: its rows would "
                "hardly ever come\n  mend: a larger weight, or leave it out"
            )
    for name, weight in weights.items():
        _check_size(name, rows[name], math.ceil(batch_size * weight / sum(weights.values())))
    order = {
        "corpora": {name: [stores[name].fingerprint, weight] for name, weight in weights.items()},
        "rows": [data.length, data.packing, data.isolate_documents, data.shuffle],
        "seed": seed,
        "batch_size": batch_size,
    }
    return DataSource(
        training_rows({name: (rows[name], weights[name]) for name in rows}, seed, data.shuffle),
        length=data.length,
        batch_size=batch_size,
        micro_batches=micro_batches,
        sharding=sharding,
        prefetch=data.prefetch,
        segmented=data.isolate_documents,
        rows_per_epoch=sum(map(len, rows.values())),
        fingerprint=hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest(),
    )


def _check_size(name: str, rows: PackedRows, needed: int) -> None:
    """A UserError where a batch would hold the same row twice."""
    if len(rows) < needed:
        raise UserError(
            f"the corpus {name!r} is shorter than one batch: its {rows.store.n_tokens:,} tokens make "
            f"{len(rows)} row(s) of data.length={rows.length}, and a batch takes {needed} of them\n"
            f"  mend: more text, or a smaller training.batch_size or data.length"
        )
