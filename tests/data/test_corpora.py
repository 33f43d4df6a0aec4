"""From config to stores to the source of batches, and rows shown as text."""

import io
import json
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from jaxrl_llm.data.config import (
    BytesConfig,
    ChatDataConfig,
    CorpusConfig,
    DataConfig,
    ExamplesConfig,
    PreferenceDataConfig,
)
from jaxrl_llm.data.corpora import open_corpora, open_holdouts, open_rows, training_source
from jaxrl_llm.data.inspect import inspect
from jaxrl_llm.data.mixture import named_corpora
from jaxrl_llm.data.preferences import preference_source
from jaxrl_llm.data.source import eval_batches
from jaxrl_llm.data.tokenizers import BytesTokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES, MeshConfig, make_mesh
from jaxrl_llm.types import Labelled, Pairs


@pytest.fixture
def texts(tmp_path):
    """Two files: "a" with 40 documents, "b" with 10."""
    for name, n in (("a", 40), ("b", 10)):
        (tmp_path / f"{name}.txt").write_text("|".join(f"{name} {i} " * (i + 1) for i in range(n)))
    return {name: str(tmp_path / f"{name}.txt") for name in "ab"}


def on_mesh(*spec):
    return NamedSharding(make_mesh(MeshConfig(), jax.devices()[:1]), PartitionSpec(*spec))


def source(data, seed=0, batch_size=8):
    where = on_mesh(None, BATCH_AXES, None)
    stores = open_corpora(data, BytesTokenizer(), progress=False)
    return training_source(stores, data, seed=seed, batch_size=batch_size, micro_batches=2, sharding=where)


def test_path_is_the_corpus_named_data():
    data = DataConfig(path="x.txt", separator="|", holdout=0.1)
    assert named_corpora(data) == {"data": CorpusConfig(path="x.txt", separator="|", holdout=0.1)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(), "no data"),
        (DataConfig(path="x.txt", mix={"a": CorpusConfig(path="a.txt")}), "data.path describes a single corpus"),
        (DataConfig(holdout=0.1, mix={"a": CorpusConfig(path="a.txt")}), "data.mix.a.holdout="),
    ],
)
def test_path_or_mix(data, message):
    with pytest.raises(UserError, match=message):
        named_corpora(data)


def test_parts_and_mixture(texts):
    mix = {
        "a": CorpusConfig(path=texts["a"], separator="|", holdout=0.25, weight=3.0),
        "b": CorpusConfig(path=texts["b"], separator="|"),
    }
    data = DataConfig(mix=mix, length=16)
    assert {name: store.n_documents for name, store in open_corpora(data, BytesTokenizer()).items()} == {
        "a": 30,
        "b": 10,
    }
    assert {name: store.n_documents for name, store in open_holdouts(data, BytesTokenizer()).items()} == {"a": 10}
    mixture = source(data)
    rows = np.concatenate([np.asarray(mixture.next(None)[0].inputs_BT).reshape(8, 16) for _ in range(5)])
    of_a, of_b = ((rows == ord(name)).any(axis=1).sum() for name in "ab")
    assert (of_a, of_b) == (30, 10)
    mixture.close()


def test_fingerprint_says_what_decides_the_batches(texts):
    def fingerprint(seed=0, batch_size=8, path=texts["a"], **changes):
        made = source(DataConfig(path=path, separator="|", **{"length": 16, **changes}), seed, batch_size)
        made.close()
        return made.state()[0]["fingerprint"]

    base = fingerprint()
    others = [
        fingerprint(seed=1),
        fingerprint(batch_size=4),
        fingerprint(path=texts["b"]),
        fingerprint(length=17),
        fingerprint(packing="first_fit"),
        fingerprint(isolate_documents=False),
        fingerprint(shuffle=False),
    ]
    assert len({base, *others}) == 8
    assert fingerprint(prefetch=0, workers=1) == base


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_conversations(tmp_path):
    """A mixture of two files of conversations, one with a held-out part, in rows and in evaluation batches."""
    files = {
        name: written(tmp_path / f"{name}.jsonl", [{"prompt": f"{i}", "completion": name * 5} for i in range(40)])
        for name in "ab"
    }
    mix = {
        "a": ExamplesConfig(path=files["a"], holdout_rows=10, weight=3.0),
        "b": ExamplesConfig(path=files["b"]),
    }
    data = ChatDataConfig(mix=mix, length=64, packing="none")
    tokenizer = BytesTokenizer()
    assert {name: store.n_examples for name, store in open_corpora(data, tokenizer).items()} == {"a": 30, "b": 40}
    [(name, holdout)] = open_holdouts(data, tokenizer).items()
    assert (name, holdout.n_examples) == ("a", 10)
    mixture = source(data)
    rows = [mixture.next(None)[0] for _ in range(5)]
    mixture.close()
    ids, weights = (
        np.concatenate([np.asarray(array).reshape(-1, 64) for array in arrays])
        for arrays in ([batch.targets_BT for batch in rows], [batch.weights_BT for batch in rows])
    )
    trained = [row[weight > 0].tolist() for row, weight in zip(ids, weights, strict=True)]
    said = Counter(tokenizer.decode(row).strip() for row in trained)
    assert said == {"aaaaa": 30, "bbbbb": 10}
    [batch] = eval_batches(open_rows(holdout, data), 10, on_mesh(BATCH_AXES, None))
    assert (np.asarray(batch.weights_BT) > 0).sum(axis=1).tolist() == [len(trained[0])] * 10


@pytest.mark.parametrize(("noun", "n_examples"), [(Pairs, 20), (Labelled, 40)])
def test_judged_answers(tmp_path, noun, n_examples):
    rows = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    data = PreferenceDataConfig(path=written(tmp_path / "x.jsonl", rows), length=64)
    stores = open_corpora(data, BytesTokenizer(), noun=noun)
    assert stores["data"].n_examples == n_examples
    options = {"noun": noun, "head": "lm", "steps": 2, "seed": 0, "batch_size": 8, "micro_batches": 2}
    made = preference_source(stores, data, sharding=on_mesh(None, BATCH_AXES, None), **options)
    batch = made.next(None)[0]
    made.close()
    assert isinstance(batch, noun)
    assert (np.asarray(batch.answers.segment_BA) > 0).sum() == (16 if noun is Pairs else 8)
    assert open_holdouts(data, BytesTokenizer(), noun=noun) == {}


def test_corpus_shorter_than_a_batch(texts):
    data = DataConfig(path=texts["b"], separator="|", length=64)
    with pytest.raises(
        UserError, match=r"(?s)'data' is shorter than one batch: its 240 tokens make 4 row.*batch takes 8"
    ):
        source(data)
    source(data, batch_size=4).close()


@pytest.mark.parametrize("packing", ["concat", "first_fit"])
def test_inspect_shows_text_boundaries_and_padding(tmp_path, packing):
    (tmp_path / "x.txt").write_text("tröt [bold]|\x1b[31mred")
    config = SimpleNamespace(
        data=DataConfig(path=str(tmp_path / "x.txt"), separator="|", length=30, packing=packing),
        tokenizer=BytesConfig(),
    )
    console = Console(record=True, width=100, color_system="truecolor", force_terminal=True, file=io.StringIO())
    inspect(config, 3, console)
    shown = console.export_text(clear=False)
    assert "row 0: 2 document(s), 73.3% full" in shown
    assert "document 0 from token 0" in shown
    assert "<bos>tröt [bold]<eos>" in shown
    assert r"<bos>\x1b[31mred<eos>" in shown
    assert "8 places of padding" in shown
    assert "\x1b[32mtröt [bold]\x1b[0m" in console.export_text(styles=True)  # green: trained
