"""The token store: what is written is read, from any thread, and damage is named."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.data.store import BLOCK, TokenStore
from jaxrl_llm.data.writer import Encoded, StoreWriter
from jaxrl_llm.errors import UserError

LENGTHS = [5, 3 * BLOCK, 1, BLOCK - 7, 20_000, 2, 300]
DOCUMENTS = [np.random.default_rng(i).integers(0, 1 << 16, length) for i, length in enumerate(LENGTHS)]


def encoded(documents: list[np.ndarray]) -> Encoded:
    lengths = np.array([len(document) for document in documents], np.int64)
    return Encoded(np.concatenate(documents), lengths, lengths * 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of DOCUMENTS, written in two calls, in shards of at least 20,000 tokens."""
    writer = StoreWriter(tmp_path, np.dtype("uint16"), shard_tokens=20_000)
    writer.add(encoded(DOCUMENTS[:2]))
    writer.add(encoded(DOCUMENTS[2:]))
    writer.finish("print", {"kind": "test"})
    return tmp_path


def test_sizes_and_shards(path: Path) -> None:
    store = TokenStore(path)
    assert (store.fingerprint, store.tokenizer) == ("print", {"kind": "test"})
    assert (store.n_documents, store.n_tokens, store.n_bytes) == (7, sum(LENGTHS), 3 * sum(LENGTHS))
    assert store.document_starts.tolist() == [0, *np.cumsum(LENGTHS)]
    assert store.document_starts.dtype == np.int64
    shards = json.loads((path / "meta.json").read_text())["shards"]
    assert [shard["n_documents"] for shard in shards] == [2, 3, 2]  # each ends with the document that reaches 20,000
    assert [shard["n_tokens"] for shard in shards] == [sum(LENGTHS[:2]), sum(LENGTHS[2:5]), sum(LENGTHS[5:])]
    names = {file.name for file in path.iterdir()}
    assert names == {"meta.json", "documents.npy", *(f"shard-0000{i}.array_record" for i in range(3))}


def test_reads_give_what_was_written(path: Path) -> None:
    store = TokenStore(path)
    for number, document in enumerate(DOCUMENTS):
        whole = store.read(number, 0, len(document))
        assert whole.dtype == np.int32
        np.testing.assert_array_equal(whole, document)
    for number, start, length in [(1, BLOCK - 6, 2), (1, BLOCK - 5, 1), (4, 5, BLOCK), (4, 19_990, 10)]:
        np.testing.assert_array_equal(store.read(number, start, length), DOCUMENTS[number][start : start + length])


@pytest.mark.parametrize(
    ("document", "start", "length"), [(0, 0, 6), (0, -1, 2), (3, BLOCK - 7, 1), (7, 0, 1), (0, 1, 0)]
)
def test_reads_outside_a_document_are_refused(path: Path, document: int, start: int, length: int) -> None:
    with pytest.raises(IndexError):
        TokenStore(path).read(document, start, length)


def test_threads_may_share_a_store(path: Path) -> None:
    store = TokenStore(path)

    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            number = int(rng.integers(len(DOCUMENTS)))
            start = int(rng.integers(LENGTHS[number]))
            length = int(rng.integers(LENGTHS[number] - start)) + 1
            np.testing.assert_array_equal(store.read(number, start, length), DOCUMENTS[number][start : start + length])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, range(8)))


def test_large_vocabularies_take_32_bits(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, np.dtype("uint32"))
    writer.add(encoded([np.array([70_000, 128_000])]))
    writer.finish("print", {})
    assert TokenStore(tmp_path).read(0, 0, 2).tolist() == [70_000, 128_000]


def read_all(path: Path) -> None:
    store = TokenStore(path)
    for number, length in enumerate(LENGTHS):
        store.read(number, 0, length)


def test_a_shard_that_ends_with_a_block(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, np.dtype("uint16"), shard_tokens=BLOCK)
    writer.add(encoded([np.arange(BLOCK), np.arange(BLOCK) + 1]))
    writer.finish("print", {})
    assert len(list(tmp_path.glob("*.array_record"))) == 2
    np.testing.assert_array_equal(TokenStore(tmp_path).read(1, 0, BLOCK), np.arange(BLOCK) + 1)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:70_000])


def edit(**values: object) -> Callable[[Path], None]:
    def replace(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return replace


def flip_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[10_000:10_010] = b"\xff" * 10
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("shard-00001.array_record", Path.unlink, "is missing"),
        ("shard-00001.array_record", truncate, "has 70,000 bytes instead of"),
        ("shard-00000.array_record", flip_bytes, "damaged"),
        ("documents.npy", Path.unlink, "missing or damaged"),
        ("documents.npy", lambda file: file.write_bytes(b"x" * 200), "missing or damaged"),
        ("documents.npy", lambda file: file.write_bytes(b""), "missing or damaged"),
        ("documents.npy", lambda file: np.save(file, np.arange(3)), "does not belong to meta.json"),
        ("meta.json", lambda file: file.write_text("{"), "unreadable"),
        ("meta.json", lambda file: file.write_text("[]"), "unreadable"),
        ("meta.json", edit(version=99), "version 99"),
        ("meta.json", Path.unlink, "not a finished token store"),
    ],
)
def test_damage_names_the_file_and_the_mend(
    path: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(path / file)
    with pytest.raises(UserError, match=message) as caught:
        read_all(path)
    assert f"rm -r {path}" in str(caught.value)
    assert file in str(caught.value) or "version" in message


def test_a_writer_continues_after_the_finished_shards(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    first = StoreWriter(other, np.dtype("uint16"), shard_tokens=20_000)
    first.add(encoded(DOCUMENTS[:4]))  # one shard of two documents; the others are lost
    second = StoreWriter(other, np.dtype("uint16"), shard_tokens=20_000)
    assert second.n_documents == 2
    second.add(encoded(DOCUMENTS[2:]))
    second.finish("print", {"kind": "test"})
    assert {f.name: f.read_bytes() for f in other.iterdir()} == {f.name: f.read_bytes() for f in path.iterdir()}
