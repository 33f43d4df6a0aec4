"""Building stores: the same bytes for any number of workers and interruptions, once for each content."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from jaxrl_llm.data import build
from jaxrl_llm.data.build import build_store, store_fingerprint
from jaxrl_llm.data.config import CorpusConfig, SentencePieceConfig
from jaxrl_llm.data.formats import Document
from jaxrl_llm.data.readers import read_documents
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import BytesTokenizer, SentencePieceTokenizer, make_tokenizer
from jaxrl_llm.errors import Preempted, UserError
from jaxrl_llm.tasks import corpus as generated

SHARD = 20_000  # tokens, so that the corpus here makes several shards


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusConfig:
    """500 documents of about 370 characters in two files."""
    texts = list(generated(500, seed=0))
    for name, part in (("a.jsonl", texts[:200]), ("b.jsonl", texts[200:])):
        (tmp_path / name).write_text("".join(json.dumps({"text": text + " ä"}) + "\n" for text in part))
    return CorpusConfig(path=str(tmp_path / "*.jsonl"), holdout=0.1)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 5000)


def make(corpus: CorpusConfig, cache: Path, **options: Any) -> TokenStore:
    return build_store(corpus, "train", BytesTokenizer(), str(cache), shard_tokens=SHARD, **options)


def contents(store: TokenStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.path.iterdir() if file.name != "lock"}


def stop_after(n: int, error: BaseException) -> Callable[..., Iterator[Document]]:
    """A `read_documents` that raises in the place of document `n`."""

    def read(*args: Any) -> Iterator[Document]:
        for index, document in enumerate(read_documents(*args)):
            if index == n:
                raise error
            yield document

    return read


def test_a_store_holds_the_documents(corpus: CorpusConfig, tmp_path: Path) -> None:
    tokenizer = BytesTokenizer()
    for part, count in (("train", 450), ("holdout", 50)):
        store = build_store(corpus, part, tokenizer, str(tmp_path / "cache"), shard_tokens=SHARD)  # type: ignore[arg-type]
        texts = [document.text for document in read_documents(corpus, part)]  # type: ignore[arg-type]
        assert store.n_documents == len(texts) == count
        assert store.n_bytes == sum(len(text.encode()) for text in texts) == store.n_tokens - 2 * count
        for index, text in enumerate(texts):
            length = int(np.diff(store.document_starts)[index])
            assert store.read(index, 0, length).tolist() == tokenizer.encode_document(text)
    assert store.tokenizer == {"kind": "bytes", "fingerprint": tokenizer.fingerprint, "vocab_size": 259}
    assert store.path == tmp_path / "cache" / store.fingerprint


def test_workers_give_the_same_bytes(corpus: CorpusConfig, tmp_path: Path, trained_path: Path) -> None:
    tokenizer = make_tokenizer(SentencePieceConfig(path=str(trained_path)))
    stores = [
        build_store(corpus, "train", tokenizer, str(tmp_path / f"cache{workers}"), workers, shard_tokens=SHARD // 4)
        for workers in (0, 2)
    ]
    assert len(contents(stores[0])) >= 6
    assert contents(stores[0]) == contents(stores[1])


@pytest.fixture(scope="module")
def trained_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from jaxrl_llm.data.tokenizers import train_sentencepiece

    path = tmp_path_factory.mktemp("model") / "x.model"
    train_sentencepiece(generated(200, seed=0), 400, path)
    return path


@pytest.mark.parametrize("stops", [[60], [3, 449], [200, 210, 400]])
def test_an_interrupted_build_continues_to_the_same_bytes(
    corpus: CorpusConfig, tmp_path: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(corpus, tmp_path / "whole")
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(build, "read_documents", stop_after(stop, OSError("gone")))
            with pytest.raises(OSError, match="gone"):
                make(corpus, tmp_path / "parts")
        with pytest.raises(UserError, match="not a finished token store"):
            TokenStore(tmp_path / "parts" / whole.fingerprint)
    encode = Mock(wraps=BytesTokenizer().encode)
    monkeypatch.setattr(BytesTokenizer, "encode", encode)
    assert contents(make(corpus, tmp_path / "parts")) == contents(whole)
    assert 0 < encode.call_count < whole.n_documents  # the finished shards were not made again


def test_ctrl_c_keeps_the_finished_shards_and_says_so(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "read_documents", stop_after(200, KeyboardInterrupt()))
    with pytest.raises(Preempted, match=r"with [1-9]\d* finished shard\(s\) kept .*\n.*the same command continues"):
        make(corpus, tmp_path / "cache")


def test_a_finished_store_is_not_built_again(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(corpus, tmp_path / "cache")
    monkeypatch.setattr(build, "read_documents", stop_after(0, AssertionError("read again")))
    assert make(corpus, tmp_path / "cache").fingerprint == first.fingerprint


def test_the_fingerprint_is_of_content_and_reading(corpus: CorpusConfig, tmp_path: Path, trained_path: Path) -> None:
    tokenizer = BytesTokenizer()
    first = store_fingerprint(corpus, "train", tokenizer)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    same = CorpusConfig(path=str(moved), holdout=0.1, weight=3.0)
    assert store_fingerprint(same, "train", tokenizer) == first
    others = {
        store_fingerprint(same, "holdout", tokenizer),
        store_fingerprint(CorpusConfig(path=str(moved), holdout=0.2), "train", tokenizer),
        store_fingerprint(CorpusConfig(path=str(moved), holdout=0.1, field="id"), "train", tokenizer),
        store_fingerprint(CorpusConfig(path=str(moved), holdout=0.1, format="text"), "train", tokenizer),
        store_fingerprint(CorpusConfig(path=str(moved), holdout=0.1, separator="x"), "train", tokenizer),
        store_fingerprint(same, "train", SentencePieceTokenizer(trained_path.read_bytes(), "x")),
    }
    with (moved / "b.jsonl").open("a") as stream:
        stream.write('{"text": "more"}\n')
    others.add(store_fingerprint(same, "train", tokenizer))
    assert first not in others
    assert len(others) == 7


def test_two_builders_at_once_build_once(corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(wraps=read_documents)
    monkeypatch.setattr(build, "read_documents", read)
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(lambda _: make(corpus, tmp_path / "cache"), range(4)))
    assert read.call_count == 1
    assert contents(stores[0]) == contents(make(corpus, tmp_path / "alone"))


def test_a_builder_waits_for_one_that_lives(
    corpus: CorpusConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make(corpus, tmp_path / "cache")
    (store.path / "meta.json").rename(tmp_path / "meta.json")  # as if the other were about to finish
    with (store.path / "lock").open("r+") as lock, ThreadPoolExecutor(1) as thread:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = thread.submit(make, corpus, tmp_path / "cache")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        (tmp_path / "meta.json").rename(store.path / "meta.json")
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result().fingerprint == store.fingerprint
    assert "waiting for process" in capsys.readouterr().err


def test_the_lock_of_a_dead_process_is_free(corpus: CorpusConfig, tmp_path: Path) -> None:
    path = tmp_path / "cache" / store_fingerprint(corpus, "train", BytesTokenizer())
    path.mkdir(parents=True)
    code = "import fcntl, os, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(path / "lock")]).returncode == -9
    assert make(corpus, tmp_path / "cache").n_documents == 450


def test_a_dead_worker_is_no_traceback(corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BytesTokenizer, "to_json", lambda self: {})  # the worker cannot start
    with pytest.raises(UserError, match="a process that tokenised died"):
        make(corpus, tmp_path / "cache", workers=1)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from jaxrl_llm.data import pool as pools
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, pools.start_worker, (len,))
    print(pool.submit(len, "abc").result(), flush=True)
    os.kill(os.getpid(), 9)
"""
    )
    environment = os.environ | {"PYTHONPATH": str(Path(build.__file__).parents[2])}
    # Returns once nobody holds the pipe any more, the worker included.
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (-9, b"3\n")


def test_a_corpus_of_white_space_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n ")
    with pytest.raises(UserError, match="no document in it"):
        make(CorpusConfig(path=str(tmp_path / "a.txt")), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_refused(corpus: CorpusConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: Not a directory\n  mend: set data.cache_dir"):
        make(corpus, tmp_path / "file")


def test_the_cache_is_the_users_by_default(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    store = build_store(corpus, "train", BytesTokenizer())
    assert store.path.parent == tmp_path / "xdg" / "jaxrl_llm"
    assert capfd.readouterr() == ("", "")  # no bar where stderr is no terminal
