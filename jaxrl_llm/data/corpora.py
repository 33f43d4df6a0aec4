"""From the config of data to its stores, and from these to the source of training batches of packed rows."""

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import NamedSharding

from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.build_sequences import Want, open_sequences
from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.config import ChatDataConfig, DataConfig, StoredDataConfig
from jaxrl_llm.data.mixture import SINGLE, named_corpora, order_fingerprint, weights_of
from jaxrl_llm.data.readers import Part
from jaxrl_llm.data.rows import PackedRows, Rows, training_rows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.source import DataSource, token_batches
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.types import Labelled, Pairs, Tokens

WANTED: Mapping[type, Want] = {Tokens: "conversation", Pairs: "comparison", Labelled: "judgement"}


def open_corpora(
    data: StoredDataConfig,
    tokenizer: Tokenizer,
    progress: bool = True,
    *,
    noun: type = Tokens,
) -> dict[str, Any]:
    """The training part of every corpus by name, built where it is not there yet.

    Args:
        data: text, of which there are TokenStores, or conversations or judged answers, of which SequenceStores.
        tokenizer: that makes tokens of it.
        progress: show a bar on stderr, if that is a terminal.
        noun: what an algorithm reads of it in the end: Tokens, Pairs or Labelled.
    """
    return _open(data, "train", tokenizer, progress, noun)


def open_holdouts(
    data: StoredDataConfig,
    tokenizer: Tokenizer,
    progress: bool = True,
    *,
    noun: type = Tokens,
) -> dict[str, Any]:
    """The part kept for evaluation, of every corpus that keeps one; else as `open_corpora`."""
    return _open(data, "holdout", tokenizer, progress, noun)


def _open(data: StoredDataConfig, part: Part, tokenizer: Tokenizer, progress: bool, noun: type) -> dict[str, Any]:
    if not isinstance(data, DataConfig):
        return dict(open_sequences(data, WANTED[noun], part, tokenizer, progress))
    return {
        name: build_store(corpus, part, tokenizer, data.cache_dir, data.workers, progress)
        for name, corpus in named_corpora(data).items()
        if part == "train" or corpus.holdout
    }


def open_rows(store: TokenStore | SequenceStore, data: DataConfig | ChatDataConfig) -> Rows:
    """What a store of text or of conversations makes of packed rows."""
    if isinstance(store, SequenceStore):
        return ChatRows(store, data.length, data.packing)
    assert isinstance(data, DataConfig)
    return PackedRows(store, data.length, data.packing, data.isolate_documents)


def training_source(
    stores: Mapping[str, TokenStore] | Mapping[str, SequenceStore],
    data: DataConfig | ChatDataConfig,
    *,
    seed: int,
    batch_size: int,
    micro_batches: int,
    sharding: NamedSharding,
    dropout_seed: int | None = None,
) -> DataSource:
    """The source of Tokens [M, b, T] from what `open_corpora` returned; see `DataSource` and `token_batches`.

    Of Pairs and Labelled it is `preferences.preference_source`.

    Raises:
        UserError: a corpus has fewer rows than a batch takes of it, or micro-batches and devices do not divide a batch.
    """
    rows = {name: open_rows(store, data) for name, store in stores.items()}
    sizes = {name: len(rows[name]) for name in rows}
    contents = {name: _content(stores[name], sizes[name], data.length) for name in rows}
    weights = weights_of(data, sizes, contents, batch_size)
    isolated = data.isolate_documents if isinstance(data, DataConfig) else True
    make = token_batches(
        training_rows({name: (rows[name], weights[name]) for name in rows}, seed, data.shuffle),
        length=data.length,
        batch_size=batch_size,
        micro_batches=micro_batches,
        sharding=sharding,
        segmented=isolated,
        dropout_seed=dropout_seed,
    )
    return DataSource(
        make,
        tokens_per_step=batch_size * data.length,
        steps_per_epoch=sum(sizes.values()) / batch_size,
        prefetch=data.prefetch,
        fingerprint=order_fingerprint(
            stores, weights, rows=[data.length, data.packing, isolated, data.shuffle], seed=seed, batch_size=batch_size
        ),
    )


def text_batches(
    store: TokenStore, length: int, *, seed: int, batch_size: int, micro_batches: int, sharding: NamedSharding
) -> Callable[[int], Tokens]:
    """make(number of a batch) -> Tokens [M, b, T] of a text, shuffled: a companion of batches of something else."""
    rows = PackedRows(store, length)
    if not len(rows):
        raise UserError(f"data.pretrain: its {store.n_tokens:,} tokens make no row of {length}\n  mend: more text")
    return token_batches(
        training_rows({SINGLE: (rows, 1.0)}, seed, True),
        length=length,
        batch_size=batch_size,
        micro_batches=micro_batches,
        sharding=sharding,
        segmented=True,
    )


def _content(store: TokenStore | SequenceStore, n_rows: int, length: int) -> str:
    of = f"{store.n_tokens:,} tokens" if isinstance(store, TokenStore) else f"{store.n_examples:,} conversation(s)"
    return f"its {of} make {n_rows} row(s) of data.length={length}"
