"""What the tests of data share: token stores of given lengths, stores of judged answers, tokenizers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.data.preferences import preference_source
from jaxrl_llm.data.sequences import write_sequences
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import BytesTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from jaxrl_llm.data.writer import Encoded, StoreWriter
from jaxrl_llm.tasks import corpus
from jaxrl_llm.types import Pairs
from tests.data.grouped import on_mesh, random_example
from tests.golden.chat_cases import KINDS, tokenizer_files


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TokenStore]:
    """make_store(lengths, name="store"): documents of so many tokens each; tokens are 0, 1, 2, ..."""

    def make(lengths: Sequence[int], name: str = "store") -> TokenStore:
        path = tmp_path / name
        path.mkdir()
        writer = StoreWriter(path, np.dtype("uint32"))
        tokens = np.arange(sum(lengths), dtype=np.uint32)
        writer.add(Encoded(tokens, np.asarray(lengths, np.int64), np.asarray(lengths, np.int64)))
        writer.finish(fingerprint=name, tokenizer={})
        return TokenStore(path)

    return make


@pytest.fixture
def comparisons(tmp_path):
    rng = np.random.default_rng(1)
    return write_sequences(tmp_path / "comparisons", [random_example(rng) for _ in range(53)], "comparisons")


@pytest.fixture
def judgements(tmp_path):
    rng = np.random.default_rng(2)
    return write_sequences(tmp_path / "judgements", [random_example(rng, 1, i % 2) for i in range(53)], "judgements")


@pytest.fixture
def source_of():
    """source_of(stores, data, ...) -> DataSource, closed at the end."""
    made = []

    def make(stores, data, **options):
        defaults = {"noun": Pairs, "head": "lm", "steps": 12, "seed": 3, "batch_size": 8, "micro_batches": 1}
        stores = stores if isinstance(stores, dict) else {"data": stores}
        made.append(preference_source(stores, data, **{**defaults, "sharding": on_mesh(), **options}))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Bytes, a SentencePiece model, and small tokenizer.json's that have special tokens for most templates."""
    base = tmp_path_factory.mktemp("tokenizers")
    found: dict[str, Tokenizer] = {"plain bytes": BytesTokenizer()}
    found["sentencepiece"] = train_sentencepiece(corpus(100, seed=0), 400, base / "m.model")
    for kind in KINDS:
        for name, content in tokenizer_files(kind).items():
            (base / name).write_text(content, encoding="utf-8")
        found[kind] = load_tokenizer(base)
    return found
