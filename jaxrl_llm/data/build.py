"""Builds token stores: once for each content of the input, in parallel, and on from where it was interrupted."""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxrl_llm.data.cache import cache_root, locked, progress_bar
from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.formats import Document
from jaxrl_llm.data.pool import map_in_order, n_workers
from jaxrl_llm.data.readers import Part, inputs, read_documents
from jaxrl_llm.data.store import META, VERSION, TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.data.writer import SHARD_TOKENS, Encoded, StoreWriter
from jaxrl_llm.errors import Preempted, UserError

CHUNK = 4 << 20  # characters that are tokenised at once
LARGE = 32 << 20  # bytes of input from which processes are worth their start


def build_store(
    corpus: CorpusConfig,
    part: Part,
    tokenizer: Tokenizer,
    cache_dir: str | None = None,
    workers: int = 0,
    progress: bool = True,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenStore:
    """The store of one part of a corpus: the one in `cache_dir` if it is finished, else built or continued there.

    It is named by its fingerprint, and holds the same bytes for any number of `workers` and interruptions.

    Args:
        corpus: where the documents come from.
        part: "train", or "holdout", the share kept from training.
        tokenizer: that makes tokens of them.
        cache_dir: null is $XDG_CACHE_HOME/jaxrl_llm, or ~/.cache/jaxrl_llm.
        workers: processes that tokenise; 0 is one a core for a large input, none for a small one.
        progress: show a bar on stderr, if that is a terminal.
        shard_tokens: tokens that finish a shard.

    Raises:
        UserError: the corpus cannot be read or is empty, or `cache_dir` cannot be written.
        Preempted: Ctrl-C; the finished shards are kept.
        StorageFailed: a write failed.
    """
    fingerprint = store_fingerprint(corpus, part, tokenizer)
    path = cache_root(cache_dir) / fingerprint
    if not (path / META).exists():
        with locked(path):
            if not (path / META).exists():  # another process may have built it while this one waited
                writer = StoreWriter(path, _dtype(tokenizer), shard_tokens)
                _fill(writer, corpus, part, tokenizer, workers, progress)
                known = {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint}
                writer.finish(fingerprint, {**known, "vocab_size": tokenizer.vocab_size})
    return TokenStore(path)


def store_fingerprint(corpus: CorpusConfig, part: Part, tokenizer: Tokenizer) -> str:
    """The sha256 of all that the tokens depend on: content (not names) of the input, its reading, the tokenizer."""
    with ThreadPoolExecutor() as threads:
        identities = list(threads.map(lambda item: item.identity(), inputs(corpus)))
    keys = {
        "version": VERSION,
        "inputs": identities,
        "field": corpus.field,
        "separator": corpus.separator,
        "part": [part, corpus.holdout],
        "tokenizer": tokenizer.fingerprint,
    }
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def _fill(
    writer: StoreWriter, corpus: CorpusConfig, part: Part, tokenizer: Tokenizer, workers: int, progress: bool
) -> None:
    """Tokenise what the writer does not have yet."""
    size = sum(item.size for item in inputs(corpus))
    count = writer.n_documents
    try:
        with progress_bar(f"tokenising ({part})", size, progress) as on_read:
            documents = itertools.islice(read_documents(corpus, part, on_read), count, None)
            encode = functools.partial(_encode_chunk, tokenizer)
            for encoded in map_in_order(encode, _chunks(documents), n_workers(workers, size, LARGE)):
                writer.add(encoded)
                count += len(encoded.lengths)
    except KeyboardInterrupt:
        raise Preempted(
            f"interrupted, with {len(writer.shards)} finished shard(s) kept in {writer.path}\n"
            "  the same command continues after them"
        ) from None
    if count == 0:
        raise UserError(f"{corpus.path}: there is no document in it, only white space")


def _chunks(documents: Iterator[Document]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= CHUNK:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _encode_chunk(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    dtype = _dtype(tokenizer)
    tokens = [np.array(tokenizer.encode_document(text), dtype) for text in texts]
    lengths = np.array([len(document) for document in tokens], np.int64)
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    return Encoded(np.concatenate(tokens), lengths, sizes)
