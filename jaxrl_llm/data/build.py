"""Builds token stores: once for each content of the input, in parallel, and on from where it was interrupted."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.formats import Document, OnRead
from jaxrl_llm.data.readers import Part, inputs, read_documents
from jaxrl_llm.data.store import META, VERSION, TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer, tokenizer_from_json
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
    path = _cache_root(cache_dir) / fingerprint
    if not (path / META).exists():
        with _locked(path):
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
    if not workers and size > LARGE:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = writer.n_documents
    try:
        with _progress_bar(f"tokenising ({part})", size, progress) as on_read:
            documents = itertools.islice(read_documents(corpus, part, on_read), count, None)
            for encoded in _encode(documents, tokenizer, workers):
                writer.add(encoded)
                count += len(encoded.lengths)
    except KeyboardInterrupt:
        raise Preempted(
            f"interrupted, with {len(writer.shards)} finished shard(s) kept in {writer.path}\n"
            "  the same command continues after them"
        ) from None
    except BrokenProcessPool as error:
        raise UserError(
            "a process that tokenised died, most likely for lack of memory\n"
            f"  mend: fewer data.workers; the same command continues after {len(writer.shards)} finished shard(s)"
        ) from error
    if count == 0:
        raise UserError(f"{corpus.path}: there is no document in it, only white space")


def _encode(documents: Iterator[Document], tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """Documents tokenised, chunk by chunk in order; with `workers`, in so many processes, a few chunks ahead."""
    if not workers:
        yield from (_encode_chunk(texts, tokenizer) for texts in _chunks(documents))
        return
    # spawn, since a fork of a process that runs threads (as JAX does) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tokenizer.to_json(),))
    ahead: deque[Future[Encoded]] = deque()
    try:
        for texts in _chunks(documents):
            ahead.append(pool.submit(_work, texts))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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


def _encode_chunk(texts: list[str], tokenizer: Tokenizer) -> Encoded:
    dtype = _dtype(tokenizer)
    tokens = [np.array(tokenizer.encode_document(text), dtype) for text in texts]
    lengths = np.array([len(document) for document in tokens], np.int64)
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    return Encoded(np.concatenate(tokens), lengths, sizes)


_tokenizer: Tokenizer  # of a process of `_encode`


def _start_worker(tokenizer: dict[str, Any]) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()  # or a killed parent leaves this one forever
    _tokenizer = tokenizer_from_json(tokenizer)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _work(texts: list[str]) -> Encoded:
    return _encode_chunk(texts, _tokenizer)


def _cache_root(cache_dir: str | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrl_llm"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Makes a directory and has it alone; others wait.  The system frees the lock of a process that died."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}\n  mend: set data.cache_dir to where it can"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"waiting for {lock.read().strip()}, which builds {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def _progress_bar(title: str, total: int, shown: bool) -> Iterator[OnRead]:
    """A bar of `total` bytes on stderr, if that is a terminal; gives what advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)
