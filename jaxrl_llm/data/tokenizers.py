"""Text to ids and back: UTF-8 bytes, or a SentencePiece model, loaded or trained here."""

import base64
import hashlib
import io
import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import sentencepiece

from jaxrl_llm.data.config import BytesConfig, TokenizerConfig
from jaxrl_llm.errors import StorageFailed, UserError

SLICE = 1 << 16  # characters that SentencePiece encodes at once: on a whole book it is three times slower
SENTENCE = 1000  # characters of a training sample of `train_sentencepiece`
SENTENCES = 50_000  # of them at most, drawn evenly from all the text
FIXED = 260  # ids of every vocabulary trained here: unk, BOS, EOS, PAD and the bytes
SPACE_MARK = "\u2581"  # how SentencePiece writes a space inside its pieces


class Tokenizer(Protocol):
    """What every tokenizer offers.  Ids are 0 .. vocab_size - 1; `fingerprint` is the sha256 of what defines them."""

    kind: str
    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special ones: text that spells a special token is text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; special ids and ids past the vocabulary give none."""

    def encode_document(self, text: str) -> list[int]:
        """BOS, the text, EOS."""

    def to_json(self) -> dict[str, Any]:
        """All of the tokenizer, for `tokenizer_from_json`."""


class BytesTokenizer:
    """Ids 0 .. 255 are the bytes of UTF-8."""

    kind = "bytes"
    vocab_size = 259
    bos_id, eos_id, pad_id = 256, 257, 258
    fingerprint = hashlib.sha256(b"bytes, BOS 256, EOS 257, PAD 258").hexdigest()

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:
            raise _not_unicode(error) from error

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`; bytes that are not UTF-8 give U+FFFD."""
        return bytes(i for i in ids if 0 <= i < 256).decode(errors="replace")

    def encode_document(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind}


class SentencePieceTokenizer:
    """A SentencePiece model.  `origin` names it in errors.

    Raises:
        UserError: `model` is no SentencePiece model, or has no BOS or EOS.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, origin: str) -> None:
        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(
                f"{origin}: not a SentencePiece model\n  mend: name the .model file (not .vocab or tokenizer.json)"
            ) from error
        self.vocab_size = self._pieces.GetPieceSize()
        self.bos_id, self.eos_id = self._pieces.bos_id(), self._pieces.eos_id()
        if self.bos_id < 0 or self.eos_id < 0:
            missing = " and ".join(n for n, i in (("BOS", self.bos_id), ("EOS", self.eos_id)) if i < 0)
            raise UserError(
                f"{origin}: the model has no {missing} piece, and documents start with BOS and end with EOS\n"
                "  mend: train one with `jaxrl-llm tokenizer train`"
            )
        # Masks come from lengths, so any legal id pads; unk is one that never means anything.
        self.pad_id = self._pieces.pad_id() if self._pieces.pad_id() >= 0 else self._pieces.unk_id()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._special = {self.bos_id, self.eos_id, self.pad_id, *filter(self._pieces.IsControl, range(self.vocab_size))}
        self._adds_space = self._pieces.EncodeAsPieces("a")[0].startswith(SPACE_MARK)
        mark = [self._pieces.PieceToId(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._mark = mark if all(map(self._pieces.IsByte, mark)) and not self._adds_space else None

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`.  These are the model's ids, but bytes for U+2581, which it would take for a space."""
        if self._mark is None or SPACE_MARK not in text:
            return self._encode(text)
        first, *others = map(self._encode, text.split(SPACE_MARK))
        return [*first, *itertools.chain.from_iterable((*self._mark, *part) for part in others)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`; bytes that are not UTF-8 give U+FFFD."""
        return self._pieces.DecodeIds([int(i) for i in ids if 0 <= i < self.vocab_size and i not in self._special])

    def encode_document(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`; the model as base64."""
        return {"kind": self.kind, "model": base64.b64encode(self._model).decode()}

    def _encode(self, text: str) -> list[int]:
        try:
            return [i for part in self._slices(text) for i in self._pieces.EncodeAsIds(part.encode())]
        except UnicodeEncodeError as error:
            raise _not_unicode(error) from error

    def _slices(self, text: str) -> Iterator[str]:
        """Parts of a long text whose ids, one after another, are its ids: pieces end at a space between words."""
        begin = 0
        while between := re.compile(r"(?<=\w) (?=\w)").search(text, begin + SLICE):
            yield text[begin : between.start()]
            begin = between.end() if self._adds_space else between.start()  # the model puts a space before each part
        yield text[begin:]


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of a config.

    Raises:
        UserError: its file is missing, unreadable or not a model.
    """
    if isinstance(config, BytesConfig):
        return BytesTokenizer()
    try:
        model = Path(config.path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"tokenizer.path={config.path}: {error.strerror}\n"
            "  mend: name a SentencePiece .model file, or make one with `jaxrl-llm tokenizer train`"
        ) from error
    return SentencePieceTokenizer(model, config.path)


def tokenizer_from_json(json: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_json` described."""
    if json["kind"] == BytesTokenizer.kind:
        return BytesTokenizer()
    return SentencePieceTokenizer(base64.b64decode(json["model"]), "the saved tokenizer")


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, out: Path, kind: Literal["bpe", "unigram"] = "bpe"
) -> SentencePieceTokenizer:
    """Train a lossless model on some text and write it to `out`: decode(encode(text)) is the text, whatever it is.

    Bytes stand in for characters that are too rare for a piece, digits are apart, pieces may hold line breaks.
    Ids: 0 unk, 1 BOS, 2 EOS, 3 PAD, then the 256 bytes, then what was learned.

    Raises:
        UserError: there is no text, or not enough for so large a vocabulary, or the vocabulary is too small.
        StorageFailed: `out` cannot be written.
    """
    if vocab_size <= FIXED:
        raise UserError(f"a vocabulary of {vocab_size} is too small: special tokens and bytes alone are {FIXED}")
    sample = _sample(_sentences(texts), SENTENCES)
    if not sample:
        raise UserError("there is no text to train a tokenizer on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            max_sentence_length=4 * SENTENCE,  # bytes
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_training_error(vocab_size, str(error))) from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(model.getvalue())
    except OSError as error:
        raise StorageFailed(f"{out}: cannot be written: {error.strerror}") from error
    return SentencePieceTokenizer(model.getvalue(), str(out))


def _not_unicode(error: UnicodeEncodeError) -> UserError:
    found = error.object[error.start]
    return UserError(f"the text has U+{ord(found):04X} in it: half of a surrogate pair, which is no character")


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Texts cut into samples.  (One cut word in a thousand characters does not matter.)"""
    for text in texts:
        for begin in range(0, len(text), SENTENCE):
            yield text[begin : begin + SENTENCE]


def _sample(items: Iterator[str], size: int) -> list[str]:
    """At most `size` items, each with the same chance: reservoir sampling, the same ones every time."""
    rng = random.Random(0)
    kept = list(itertools.islice(items, size))
    for number, item in enumerate(items, start=size + 1):
        place = rng.randrange(number)
        if place < size:
            kept[place] = item
    return kept


def _training_error(vocab_size: int, error: str) -> str:
    if largest := re.search(r"set it to a value <= (\d+)", error):
        return (
            f"a vocabulary of {vocab_size} is too large for this text: at most {largest[1]} is possible\n"
            f"  mend: --vocab-size {largest[1]} or smaller, or more text"
        )
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return (
            f"a vocabulary of {vocab_size} is too small: bytes, special tokens and the text's characters take "
            f"{smallest[1]}\n  mend: --vocab-size {int(smallest[1]) + 1} or larger"
        )
    return f"SentencePiece cannot train a vocabulary of {vocab_size} on this text: {error}"
