"""What every tokenizer offers, whatever its file: text to ids, ids to bytes to text, and which ids are special."""

import base64
import functools
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxrl_llm.errors import UserError

REPLACE = "replace"  # what a decoder does with bytes that are not UTF-8: U+FFFD


@dataclass(frozen=True)
class AddedToken:
    """A token that was added to a vocabulary: an id and its spelling, which is one token wherever it is recognised."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class Settings:
    """What the files beside a vocabulary say about its special tokens; None or empty: they say nothing."""

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    """Ids that end a completion, the first of them EOS where `eos_token` is None."""
    pad_id: int | None = None
    added: tuple[AddedToken, ...] = ()
    special: frozenset[str] = frozenset()
    """Spellings that are special besides those that `added` says are."""
    adds_bos: bool | None = None
    space_after_special: bool = True
    """A SentencePiece model that puts a space before its text does so after every special token ("legacy")."""
    chat_template: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files themselves, by name, to be written back byte for byte."""
    ids: Mapping[str, Any] = field(default_factory=dict)
    """What config.json says: bos_token_id, eos_token_id, pad_token_id."""

    def to_json(self) -> dict[str, Any]:
        """The files, compressed, for `tokenizer_from_json`."""
        packed = {name: base64.b64encode(zlib.compress(content)).decode() for name, content in self.files.items()}
        return {"kind": "huggingface", "files": packed, "ids": dict(self.ids)}


class Tokenizer(ABC):
    """What every tokenizer offers.  Ids are 0 .. vocab_size - 1; `fingerprint` is the sha256 of what defines them.

    Special tokens are never text: `encode` does not make them and `decode` does not show them.  `added` tokens that
    are not special (`<think>`) are ordinary vocabulary.
    """

    kind: str
    vocab_size: int
    bos_id: int
    """Begins documents; EOS where the model has no BOS of its own."""
    eos_id: int
    pad_id: int
    """May be EOS: masks come from lengths, never from this id."""
    stop_ids: frozenset[int]
    """Ids that end a completion; EOS is one of them."""
    bos_token: str | None = None
    """How the model spells BOS; None: it has none."""
    eos_token: str
    adds_bos: bool = True
    """The model expects BOS at the start of every prompt."""
    specials: Mapping[str, int]
    """Special tokens by spelling."""
    added: Mapping[str, int]
    """All added tokens by spelling, those of `specials` among them."""
    chat_template: str | None = None
    """The model's own Jinja text."""
    starts_with_space: bool = False
    """`encode` puts a space before a text, and `decode` drops it."""
    fingerprint: str

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special ones: text that spells a special token is text.

        Raises:
            UserError: the text holds half of a surrogate pair.
        """

    @abstractmethod
    def encode_parts(self, parts: Sequence[str | int], continued: bool = False) -> list[int]:
        """The ids of texts with special tokens, given by their ids, between them.

        A special token may take in white space beside it, if its model says so.  `continued`: the parts go on after
        other text, so no space is put before them.
        """

    @abstractmethod
    def piece(self, id: int) -> bytes:
        """The bytes that an id adds to a text, perhaps a part of a character; none for a special or unknown id."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All of the tokenizer, for `tokenizer_from_json`."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files of a Hugging Face directory that hold this tokenizer."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that tokenises."""
        from jaxrl_llm.data.tokenizers import tokenizer_from_json

        return tokenizer_from_json, (self.to_json(),)

    def guarded(self, names: Iterable[str]) -> "Tokenizer":
        """This tokenizer, to which the added tokens of these names are special as well."""
        return self

    @functools.cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Finds special tokens in a text."""
        return any_of(self.specials)

    def decode(self, ids: Iterable[int], continued: bool = False) -> str:
        """The text of some ids; special ids and ids past the vocabulary give none, bytes that are not UTF-8 U+FFFD.

        `continued`: the ids go on after others, so the space that `encode` puts before a text is not among them.
        """
        text = b"".join(map(self.piece, ids)).decode(errors=REPLACE)
        return text.removeprefix(" ") if self.starts_with_space and not continued else text

    def encode_document(self, text: str) -> list[int]:
        """BOS, the text, EOS."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """BOS where the model expects it, the text."""
        return [self.bos_id, *self.encode(text)] if self.adds_bos else self.encode(text)

    def _settle(self, settings: Settings, origin: str) -> None:
        """Set all that follows from `vocab_size`, `specials` and what the files say.

        Raises:
            UserError: a token has no id, an id is past the vocabulary, there is no EOS.
        """
        eos = self._id_of(settings.eos_token, "eos_token", origin)
        stops = (*(() if eos is None else (eos,)), *settings.eos_ids)
        if not stops:
            raise UserError(
                f"{origin}: no file says which token ends a text\n  mend: name it: eos_token in tokenizer_config.json"
            )
        bos = self._id_of(settings.bos_token, "bos_token", origin)
        pad = self._id_of(settings.pad_token, "pad_token", origin)
        self.eos_id, self.stop_ids = stops[0], frozenset(stops)
        self.bos_id = next(i for i in (bos, settings.bos_id, self.eos_id) if i is not None)
        unknown = self.specials.get("<unk>")  # an id that never means anything
        self.pad_id = next(i for i in (pad, settings.pad_id, unknown, self.eos_id) if i is not None)
        for name, id in (*(("eos", stop) for stop in stops), ("bos", self.bos_id), ("pad", self.pad_id)):
            if not 0 <= id < self.vocab_size:
                raise UserError(
                    f"{origin}: {name}_token_id {id} is no id of its {self.vocab_size:,} tokens (0 to "
                    f"{self.vocab_size - 1})\n  mend: config.json or generation_config.json, which say so"
                )
        spelling = {id: text for text, id in self.specials.items()}
        self.bos_token = settings.bos_token
        self.eos_token = spelling.get(self.eos_id, "")
        self.adds_bos = bool(settings.adds_bos)
        self.chat_template = settings.chat_template

    def _id_of(self, token: str | None, name: str, origin: str) -> int | None:
        if token is None or token in self.specials:
            return None if token is None else self.specials[token]
        raise UserError(
            f"{origin}: {name} {token!r} is not in the vocabulary\n  mend: correct {name} in tokenizer_config.json"
        )


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of some texts, the longest where several begin."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def not_unicode(text: str) -> UserError:
    """The error for a text that cannot be written in UTF-8."""
    found = next(c for c in text if "\ud800" <= c <= "\udfff")
    return UserError(f"the text has U+{ord(found):04X} in it: half of a surrogate pair, which is no character")
