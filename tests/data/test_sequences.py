"""Sequence stores: what is written is read, once for each content; nothing that is left out is left out silently."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from jaxrl_llm.data import build_sequences as building
from jaxrl_llm.data.build_sequences import build_sequences, describe, open_sequences, quarantine
from jaxrl_llm.data.config import ChatDataConfig, ExamplesConfig, PreferenceDataConfig
from jaxrl_llm.data.sequences import Encoded, SequenceStore, SequenceWriter, write_sequences
from jaxrl_llm.data.tokenizers import BytesTokenizer, load_tokenizer
from jaxrl_llm.errors import Preempted, UserError

BYTES = BytesTokenizer()
EXAMPLES = [
    Encoded([1, 5], [([7, 2], [1.0, 1.0]), ([8, 9, 2], [1.0, 0.5, 0.0])], (0, 1), (1, -1), 0.5, 2, True, "b"),
    Encoded([], [([1, 2], [0.0, 1.0])], cut=True),
    Encoded([3], [([4], [1.0])], subset="a", label=1),
    Encoded([6], [([4], [1.0])] * 3, (0, 1, 1), subset="b", label=0),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(n: int, chosen: str = "yes", rejected: str = "no", **more) -> dict:
    return {"prompt": f"Question {n}?", "chosen": chosen, "rejected": rejected, **more}


def build(path: str, want: str = "comparison", part: str = "train", **options) -> SequenceStore:
    kind = ChatDataConfig if want == "conversation" else PreferenceDataConfig
    corpus = ExamplesConfig(path=path, **{k: options.pop(k) for k in ("holdout_rows", "safety") if k in options})
    return build_sequences(corpus, want, part, kind(path=path, **options), BYTES, False)


def contents(store: SequenceStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.path.iterdir() if file.name != "lock"}


def test_a_store_holds_the_examples(tmp_path: Path) -> None:
    store = write_sequences(tmp_path / "store", EXAMPLES)
    for number, example in enumerate(EXAMPLES):
        assert store.prompt(number).tolist() == example.prompt
        for answer, (ids, weights) in enumerate(example.answers):
            found = store.answer(number, answer)
            assert [array.tolist() for array in found] == [ids, weights]
            assert [array.dtype for array in found] == [np.int32, np.float32]
        with pytest.raises(IndexError):
            store.answer(number, len(example.answers))
    assert (store.n_examples, store.n_answers, store.subsets) == (4, 7, ("b", "a"))
    assert store.prompt_lengths.tolist() == [2, 0, 1, 1]
    assert store.answer_starts.tolist() == [0, 2, 3, 4, 7]
    assert store.answer_lengths.tolist() == [2, 3, 2, 1, 1, 1, 1]
    assert store.document_starts.tolist() == [0, 7, 9, 11, 15]
    assert (store.ranks.tolist(), store.safe.tolist()) == ([0, 1, 0, 0, 0, 1, 1], [1, -1, -1, -1, -1, -1, -1])
    assert (store.margin[0], np.isnan(store.margin[1:]).all()) == (0.5, True)
    assert (store.rating.tolist(), store.safety.tolist()) == ([2, -1, -1, -1], [True, False, False, False])
    assert (store.subset.tolist(), store.label.tolist()) == ([0, -1, 1, 0], [-1, -1, 1, 0])
    assert store.cut.tolist() == [False, True, False, False]
    assert store.counts == {"tokens": 15, "trained": 9}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "meta.json").unlink(), "not a finished sequence store"),
        (lambda path: (path / "ids.bin").write_bytes(b"1234"), "has 1 entries instead of 15"),
        (lambda path: (path / "ranks.npy").unlink(), "ranks.npy: missing or damaged"),
        (lambda path: np.save(path / "label.npy", np.zeros(3)), "has 3 entries instead of 4"),
        (lambda path: (path / "meta.json").write_text('{"version": 0}'), "version 0 of the store"),
    ],
)
def test_a_damaged_store_is_refused(tmp_path: Path, damage, message: str) -> None:
    write_sequences(tmp_path / "store", EXAMPLES)
    damage(tmp_path / "store")
    with pytest.raises(UserError, match=rf"{message}(.|\n)*mend: rm -r"):
        SequenceStore(tmp_path / "store")


def test_what_became_of_the_rows_is_counted(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(6)] + [pair(6, "a", "a"), pair(7, " "), pair(8, "y" * 99)]
    path = write(tmp_path / "a.jsonl", rows)
    store = build(path, length=64, max_dropped=0.5)
    some = {"read": 9, "empty": 1, "identical": 1, "cut": 1, "tokens": 6 * 38 + 29 + 35 + 4, "trained": 6 * 9 + 35 + 4}
    assert store.counts == dict.fromkeys(store.counts, 0) | some
    text = BYTES.decode(store.answer(0, 0)[0], continued=True)
    assert text == " yes"
    assert "7 of 9 examples, 1 have an empty answer, 1 have answers that are the same, 1 cut to fit" in describe(store)
    dropped = build(path, length=64, max_dropped=0.5, overlong="drop")
    assert (dropped.counts["overlong"], dropped.n_examples) == (1, 6)


def test_too_many_with_nothing_to_train_on_stop_and_name_the_key(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q" * 90}, {"role": "assistant", "content": "a"}]}]
    rows += [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 60
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        UserError,
        match=r"of 61 examples 1 have nothing left to train on \(data.max_length=64\), more than "
        r"data.max_dropped=0.01\n  mend: a larger data.max_length",
    ):
        build(path, "conversation", length=64)
    assert build(path, "conversation", length=64, max_dropped=0.05).n_examples == 60
    with pytest.raises(UserError, match=r"1 have answers that are the same .*\n  mend: a larger data.max_length where"):
        build(write(tmp_path / "b.jsonl", [pair(0, "a", "a"), pair(1)]))
    with pytest.raises(UserError, match="nothing is left to train on: 0 of 1 examples, 1 are too long"):
        build(write(tmp_path / "c.jsonl", [pair(0)]), length=8, overlong="drop")
    with pytest.raises(UserError, match=r"data.max_length=65 is more than a row of data.length=64"):
        build(path, "conversation", length=64, max_length=65)


def test_rows_of_the_wrong_form_stop_or_are_kept_aside(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(30)]
    path = write(tmp_path / "a.jsonl", [*rows[:7], {"prompt": "p", "chosen": 3, "rejected": "x\u2028"}, *rows[7:]])
    with pytest.raises(UserError, match=r"a\.jsonl:8"):
        build(path)
    with pytest.raises(
        UserError, match=r"1 of 31 examples are of the wrong form, more than data.max_invalid=0.01(.|\n)*jsonl:8"
    ):
        build(path, invalid="skip")
    store = build(path, invalid="skip", max_invalid=0.1)
    assert (store.n_examples, store.counts["invalid"]) == (30, 1)
    aside = tmp_path / "quarantine.jsonl"
    for _ in range(2):  # a run that starts again
        assert quarantine([store, store], aside) == 1
        [line] = aside.read_text().split("\n")[:-1]
        assert json.loads(json.loads(line)["row"])["chosen"] == 3
        assert "a.jsonl:8" in json.loads(line)["error"]
    other = write(tmp_path / "b.jsonl", [*rows, {"prompt": "p", "chosen": 4, "rejected": "x"}])
    assert quarantine([build(other, invalid="skip", max_invalid=0.1)], aside) == 2
    assert quarantine([build(write(tmp_path / "c.jsonl", rows))], tmp_path / "none.jsonl") == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_what_a_template_refuses_is_of_the_wrong_form(tmp_path: Path) -> None:
    odd = {"messages": [{"role": role, "content": "x"} for role in ("user", "user", "assistant")]}
    good = {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]}
    path = write(tmp_path / "a.jsonl", [good, odd])
    with pytest.raises(UserError, match=r"a\.jsonl:2: chat template mistral: .*take turns"):
        build(path, "conversation", template="mistral")
    store = build(path, "conversation", template="mistral", invalid="skip", max_invalid=0.5)
    assert (store.n_examples, store.counts["invalid"]) == (1, 1)


def test_a_store_is_built_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [pair(n) for n in range(3)])
    read = Mock(wraps=building.read_examples)
    monkeypatch.setattr(building, "read_examples", read)
    first = build(path)
    same = {
        "workers": 1,
        "shuffle": False,
        "prefetch": 1,
        "max_dropped": 0.5,
        "max_invalid": 0.5,
        "share_prompt": False,
    }
    assert build(path, **same).fingerprint == first.fingerprint
    assert read.call_count == 1
    others = [
        build(path, "judgement"),
        build(path, length=100),
        build(path, length=1024, max_length=100, overlong="drop"),
        build(path, template="chatml"),
        build(path, holdout_rows=1),
        build(path, part="holdout", holdout_rows=1),
        build(path, safety=True),
        build(path, invalid="skip"),
        build(path, "conversation"),
        build(path, "conversation", train_on="last"),
        build(path, "conversation", gatt=True),
        build(write(tmp_path / "b.jsonl", [pair(n) for n in range(4)])),
    ]
    assert len({first.fingerprint, *(store.fingerprint for store in others)}) == 13
    assert others[4].n_examples + others[5].n_examples == first.n_examples
    assert others[6].safety.all()


def test_workers_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "CHUNK", 7)
    path = write(tmp_path / "a.jsonl", [pair(n, f"yes {n}") for n in range(20)] + [{"prompt": 1}])
    options = {"invalid": "skip", "max_invalid": 0.1}
    stores = [build(path, workers=n, cache_dir=str(tmp_path / f"{n}"), **options) for n in (0, 2)]
    assert contents(stores[0]) == contents(stores[1])
    assert BYTES.decode(stores[1].answer(19, 0)[0]) == " yes 19"


def test_an_interrupted_build_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [pair(n) for n in range(3)])
    with monkeypatch.context() as patch:
        patch.setattr(SequenceWriter, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(Preempted, match="the same command does it anew"):
            build(path)
    assert build(path).n_examples == 3


def test_a_mixture_has_a_store_each(tmp_path: Path) -> None:
    corpora = {
        name: ExamplesConfig(path=write(tmp_path / f"{name}.jsonl", [pair(n) for n in range(size)]), holdout_rows=kept)
        for name, size, kept in (("a", 3, None), ("b", 5, 2))
    }
    data = PreferenceDataConfig(mix=corpora)
    sizes = {
        part: {name: store.n_examples for name, store in open_sequences(data, "comparison", part, BYTES).items()}
        for part in ("train", "holdout")
    }
    assert sizes == {"train": {"a": 3, "b": 3}, "holdout": {"b": 2}}


def test_real_preferences(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "stories260k")
    path = str(shared_data / "preferences" / "instructions_pairs.jsonl")
    corpus, data = ExamplesConfig(path=path), PreferenceDataConfig(path=path)
    store = build_sequences(corpus, "comparison", "train", data, tokenizer, progress=False)
    assert (store.n_examples, store.counts["identical"]) == (984, 6)


def test_half_a_surrogate_pair_is_put_aside(tmp_path: Path) -> None:
    """From a JSON array, whose rows are kept as they were parsed."""
    (tmp_path / "a.json").write_text(json.dumps([*(pair(n) for n in range(3)), {**pair(3), "prompt": "\ud800"}]))
    store = build(str(tmp_path / "a.json"), length=64, invalid="skip", max_invalid=0.5)
    assert (store.n_examples, store.counts["invalid"]) == (3, 1)
    assert quarantine([store], tmp_path / "q.jsonl") == 1
    assert json.loads((tmp_path / "q.jsonl").read_text())["row"]["prompt"] == "\ud800"
