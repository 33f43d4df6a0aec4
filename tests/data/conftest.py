"""Token stores made of given lengths."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.writer import Encoded, StoreWriter


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
