"""`tokenizer train`: a lossless SentencePiece model from text."""

import io
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import sentencepiece

from jaxrl_llm.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from jaxrl_llm.errors import StorageFailed, UserError

SENTENCE = 1000  # characters of a training sample
SENTENCES = 50_000  # of them at most, drawn evenly from all the text
FIXED = 260  # ids of every vocabulary trained here: unk, BOS, EOS, PAD and the bytes


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
