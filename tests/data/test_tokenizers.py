"""Tokenizers: exact ids, losslessness on any text, and refusal of what is no model."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from jaxrl_llm.data.config import BytesConfig, SentencePieceConfig
from jaxrl_llm.data.tokenizers import (
    BytesTokenizer,
    SentencePieceTokenizer,
    make_tokenizer,
    sentencepiece_tokenizer,
    tokenizer_from_json,
    train_sentencepiece,
    training,
)
from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import corpus

TEXTS = [
    *corpus(300, seed=0),
    "Die Größe der Änderung übertrifft die Straße um 1234 Meter.\n\n    § 1 Geltungsbereich\n" * 100,
    "你好，世界。人工智能正在学习语言。\n" * 20,
]
AWKWARD = [
    "",
    " ",
    "\n",
    "\r\n",
    "  a  b\n c ",
    "\t\tx",
    "größe 你好 🎉👩‍👩‍👧",
    "e\u0301 é",
    "a\x00b",
    "▁a b▁▁",
    "<s></s><unk><pad><0x41>",
    "\ufeffx\u3000y\u00a0z",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SentencePieceTokenizer]:
    """A small model of each kind."""
    out = tmp_path_factory.mktemp("models")
    return {kind: train_sentencepiece(TEXTS, 500, out / f"{kind}.model", kind) for kind in ("bpe", "unigram")}


def model_bytes(**options: Any) -> bytes:
    """A tiny model trained with SentencePiece's own defaults but for `options`."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS), model_writer=out, vocab_size=400, model_type="bpe", minloglevel=2,
        character_coverage=0.98, max_sentence_length=10_000, **options,
    )  # fmt: skip
    return out.getvalue()


def random_texts(n: int) -> list[str]:
    """Strings of awkward characters in any order."""
    rng = random.Random(0)
    alphabet = [
        "a",
        "e",
        "the",
        "Z",
        "9",
        " ",
        "  ",
        "\n",
        "\t",
        "\r",
        "▁",
        "ä",
        "ß",
        "你",
        "界",
        "🎉",
        "\u0301",
        "<s>",
        "\x00",
    ]
    anything = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x11000))]
    return ["".join(rng.choices(alphabet, k=30)) + "".join(rng.choices(anything, k=5)) for _ in range(n)]


def test_bytes_ids() -> None:
    tokenizer = make_tokenizer(BytesConfig())
    assert tokenizer.encode("aé") == [97, 0xC3, 0xA9]
    assert tokenizer.encode_document("a") == [256, 97, 257]
    assert tokenizer.decode([256, 97, 0xC3, 0xA9, 257, 258, 300]) == "aé"
    assert tokenizer.decode([0xC3, 97]) == "\ufffda"
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (259, 256, 257, 258)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_decode_inverts_encode(kind: str, trained: dict[str, SentencePieceTokenizer]) -> None:
    tokenizer = BytesTokenizer() if kind == "bytes" else trained[kind]
    for text in [*AWKWARD, *TEXTS[-2:], *random_texts(300)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode_document(text)) == text
        assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_learns_pieces_and_keeps_digits_apart(kind: str, trained: dict[str, SentencePieceTokenizer]) -> None:
    tokenizer = trained[kind]
    text = TEXTS[0]
    assert len(tokenizer.encode(text)) < 0.7 * len(text)
    assert len(tokenizer.encode("1234")) == 4
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (500, 1, 2, 3)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_json_holds_the_whole_tokenizer(kind: str, trained: dict[str, SentencePieceTokenizer]) -> None:
    tokenizer = BytesTokenizer() if kind == "bytes" else trained[kind]
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert len(tokenizer.fingerprint) == 64


def test_long_texts_are_encoded_in_slices_with_the_same_ids(
    trained: dict[str, SentencePieceTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(TEXTS) + "  two  spaces  "
    for tokenizer in (trained["bpe"], trained["unigram"], SentencePieceTokenizer(model_bytes(), "defaults")):
        monkeypatch.setattr(sentencepiece_tokenizer, "SLICE", 1 << 30)
        whole = tokenizer.encode(text)
        monkeypatch.setattr(sentencepiece_tokenizer, "SLICE", 50)
        assert len(list(tokenizer._first.slices(text))) > 100
        assert tokenizer.encode(text) == whole


def test_training_is_quiet_and_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "SENTENCES", 100)  # fewer than there are, so they are sampled
    prints = {train_sentencepiece(iter(TEXTS), 350, tmp_path / f"{i}.model").fingerprint for i in range(2)}
    assert len(prints) == 1
    assert capfd.readouterr() == ("", "")


def test_a_vocabulary_too_large_names_the_largest(tmp_path: Path) -> None:
    out = tmp_path / "x.model"
    with pytest.raises(UserError, match="too large.*at most [0-9]+ is possible") as caught:
        train_sentencepiece(TEXTS[:3], 5000, out)
    assert not out.exists()
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train_sentencepiece(TEXTS[:3], largest, out).vocab_size == largest
    with pytest.raises(UserError, match="too large"):
        train_sentencepiece(TEXTS[:3], largest + 1, out)


@pytest.mark.parametrize("size", [-1, 260, 270])
def test_a_vocabulary_too_small_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a vocabulary of {size} is too small"):
        train_sentencepiece(TEXTS, size, tmp_path / "x.model")


def test_training_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        train_sentencepiece([], 500, tmp_path / "x.model")


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x00" * 100])
def test_what_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.model"):
        make_tokenizer(SentencePieceConfig(path=str(path)))


def test_a_cut_model_is_refused(trained: dict[str, SentencePieceTokenizer], tmp_path: Path) -> None:
    path = tmp_path / "cut.model"
    path.write_bytes(trained["bpe"]._model[:-7])
    with pytest.raises(UserError, match="not a SentencePiece model"):
        make_tokenizer(SentencePieceConfig(path=str(path)))


def test_a_missing_pad_is_unk_and_a_missing_bos_or_eos_is_refused() -> None:
    tokenizer = SentencePieceTokenizer(model_bytes(), "defaults")  # unk 0, BOS 1, EOS 2, no PAD
    assert tokenizer.pad_id == 0 != tokenizer.eos_id
    assert tokenizer.decode([1, *tokenizer.encode("the cat"), 2, 0, 0]) == "the cat"
    with pytest.raises(UserError, match="no BOS piece"):
        SentencePieceTokenizer(model_bytes(bos_id=-1), "x.model")
    with pytest.raises(UserError, match="no EOS piece"):
        SentencePieceTokenizer(model_bytes(eos_id=-1), "x.model")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_half_a_surrogate_pair_is_refused(kind: str, trained: dict[str, SentencePieceTokenizer]) -> None:
    tokenizer = BytesTokenizer() if kind == "bytes" else trained[kind]
    with pytest.raises(UserError, match=r"U\+D800"):
        tokenizer.encode("a \ud800 b")


def test_a_published_model_gives_its_published_ids(shared_data: Path) -> None:
    path = shared_data / "tokenizers" / "mistral_v1" / "tokenizer.model"
    tokenizer = make_tokenizer(SentencePieceConfig(path=str(path)))
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (32_000, 1, 2, 0)
    assert tokenizer.encode("hello") == [6312, 28709]
    assert tokenizer.encode("<s>hi</s>") == [523, 28713, 28767, 5365, 700, 28713, 28767]
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for name in ("german_law.jsonl.gz", "tinyshakespeare.txt"):  # as raw bytes: any text will do
        text = (shared_data / "text" / name).read_bytes()[:200_000].decode("latin1")
        assert tokenizer.encode(text) == reference.EncodeAsIds(text)
