"""Tokens of a SentencePiece model, the file tokenizer.model."""

import base64
import functools
import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from jaxrl_llm.data.tokenizers.base import Settings, Tokenizer, any_of, not_unicode
from jaxrl_llm.data.tokenizers.sentencepiece_files import sentencepiece_files
from jaxrl_llm.errors import UserError

SLICE = 1 << 16  # characters that SentencePiece encodes at once: on a whole book it is three times slower
SPACE_MARK = "\u2581"  # how SentencePiece writes a space inside its pieces


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.  `origin` names it in errors; `settings` are what the files beside it say.

    Raises:
        UserError: `model` is no SentencePiece model, has no BOS or EOS, or contradicts `settings`.
    """

    def __init__(self, model: bytes, origin: str, settings: Settings | None = None) -> None:
        self.kind = "sentencepiece" if settings is None else "huggingface"
        self._model, self._origin, self._settings = model, origin, settings
        self._pieces = _load(model, origin)
        self._size: int = self._pieces.GetPieceSize()
        said = settings or Settings()
        self._learn_tokens(said)
        self._settle(self._complete(said), origin)
        self._hidden = {*self.specials.values(), self.pad_id}
        self._spaced = said.space_after_special  # after special tokens; at the start there is one in any case
        self._first = _Encoder(self._pieces if not self._spelled() else _load(_edited(model, self._spelled()), origin))
        self.starts_with_space = self._first.adds_space
        tokens = (self.bos_id, self.eos_id, self.pad_id, sorted(self.added.items()), sorted(self.specials))
        self.fingerprint = hashlib.sha256(model if settings is None else model + repr(tokens).encode()).hexdigest()
        self._cache: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`.  These are the model's ids, but bytes for U+2581, which it would take for a space."""
        return self.encode_parts([text])

    def encode_parts(self, parts: Sequence[str | int], continued: bool = False) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = []
        spaced = not continued
        for part in self._split(parts):
            if isinstance(part, int):
                ids.append(part)
                spaced = self._spaced
            elif part:
                ids += (self._first if spaced else self._further).encode(part)
                spaced = False
        return ids

    def piece(self, id: int) -> bytes:
        """See `Tokenizer`."""
        if id not in self._cache:
            self._cache[id] = self._spell(id)
        return self._cache[id]

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        if self._settings is not None:
            return self._settings.to_json()
        return {"kind": self.kind, "model": base64.b64encode(self._model).decode()}

    def files(self) -> dict[str, bytes]:
        """See `Tokenizer`."""
        made = {} if self._settings is None else self._settings.files
        if "tokenizer_config.json" not in made:
            made = {**made, **sentencepiece_files(self._model, self, self._spaced)}
        return dict(made)

    @functools.cached_property
    def _further(self) -> "_Encoder":
        """Encodes text that goes on after other text."""
        if not self.starts_with_space:
            return self._first
        return _Encoder(_load(_edited(self._model, self._spelled(), adds_space=False), self._origin))

    @functools.cached_property
    def _ordinary(self) -> re.Pattern[str] | None:
        """Finds added tokens that are not special."""
        texts = self.added.keys() - self.specials.keys()
        return re.compile(f"({any_of(texts).pattern})") if texts else None

    def _split(self, parts: Sequence[str | int]) -> Iterator[str | int]:
        for part in parts:
            if isinstance(part, int) or self._ordinary is None:
                yield part
            else:
                yield from (self.added[p] if n % 2 else p for n, p in enumerate(self._ordinary.split(part)))

    def _learn_tokens(self, said: Settings) -> None:
        for token in said.added:
            if token.id < self._size and self._pieces.IdToPiece(token.id) != token.text:
                raise UserError(
                    f"{self._origin}: {token.text!r} cannot have the id {token.id}, which is "
                    f"{self._pieces.IdToPiece(token.id)!r} in the model\n  mend: correct added_tokens_decoder in "
                    "tokenizer_config.json, or the ids in added_tokens.json"
                )
        controls = {self._pieces.IdToPiece(i): i for i in range(self._size) if self._is_control(i)}
        self.added = controls | {token.text: token.id for token in said.added}
        named = {*said.special, *(text for text in (said.bos_token, said.eos_token, said.pad_token) if text)}
        inside = {text: self._pieces.PieceToId(text) for text in named}
        self.added |= {text: i for text, i in inside.items() if self._pieces.IdToPiece(i) == text}
        special = {token.text for token in said.added if token.special} | controls.keys() | named
        self.specials = {text: i for text, i in self.added.items() if text in special}
        self.vocab_size = max((self._size - 1, *self.added.values())) + 1

    def _complete(self, said: Settings) -> Settings:
        """What no file says, as the model has it."""
        bos, eos, pad, unk = (getattr(self._pieces, f"{name}_id")() for name in ("bos", "eos", "pad", "unk"))
        begins = said.bos_token is not None or said.bos_id is not None or bos >= 0
        ends = said.eos_token is not None or said.eos_ids or eos >= 0
        if not (begins and ends):
            missing = " and ".join(n for n, found in (("BOS", begins), ("EOS", ends)) if not found)
            raise UserError(
                f"{self._origin}: the model has no {missing} piece, and documents start with BOS and end with EOS\n"
                "  mend: train one with `jaxrl-llm tokenizer train`"
            )
        if said.bos_token is None and said.bos_id is None:
            said = replace(said, bos_token=self._pieces.IdToPiece(bos))
        if said.eos_token is None and not said.eos_ids:
            said = replace(said, eos_token=self._pieces.IdToPiece(eos))
        if said.pad_token is None and said.pad_id is None:
            # Masks come from lengths, so any legal id pads; unk is one that never means anything.
            said = replace(said, pad_id=pad if pad >= 0 else unk)
        return said if said.adds_bos is not None else replace(said, adds_bos=True)

    def _spelled(self) -> list[int]:
        """Special ids that the model itself would make of a text."""
        inside = (i for i in self.specials.values() if i < self._size)
        return [i for i in inside if not self._is_control(i)]

    def _is_control(self, id: int) -> bool:
        """The model makes this id of no text that spells it."""
        return self._pieces.IsControl(id) or self._pieces.IsUnknown(id)

    def _spell(self, id: int) -> bytes:
        if id in self._hidden or not 0 <= id < self.vocab_size:
            return b""
        if id >= self._size:
            return next((text.encode() for text, i in self.added.items() if i == id), b"")
        text = self._pieces.IdToPiece(id)
        if self._pieces.IsByte(id):
            return bytes((int(text[1:-1], 16),))
        return text.replace(SPACE_MARK, " ").encode()


class _Encoder:
    """Encodes text of any length, bytes of U+2581 and all."""

    def __init__(self, pieces: sentencepiece.SentencePieceProcessor) -> None:
        self._pieces = pieces
        self.adds_space = pieces.EncodeAsPieces("a")[0].startswith(SPACE_MARK)
        mark = [pieces.PieceToId(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._mark = mark if all(map(pieces.IsByte, mark)) and not self.adds_space else None

    def encode(self, text: str) -> list[int]:
        if self._mark is None or SPACE_MARK not in text:
            return self._encode(text)
        first, *others = map(self._encode, text.split(SPACE_MARK))
        return [*first, *itertools.chain.from_iterable((*self._mark, *part) for part in others)]

    def slices(self, text: str) -> Iterator[str]:
        """Parts of a long text whose ids, one after another, are its ids: pieces end at a space between words."""
        begin = 0
        while between := re.compile(r"(?<=\w) (?=\w)").search(text, begin + SLICE):
            yield text[begin : between.start()]
            begin = between.end() if self.adds_space else between.start()  # the model puts a space before each part
        yield text[begin:]

    def _encode(self, text: str) -> list[int]:
        try:
            return [i for part in self.slices(text) for i in self._pieces.EncodeAsIds(part.encode())]
        except UnicodeEncodeError as error:
            raise not_unicode(text) from error


def _load(model: bytes, origin: str) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise UserError(
            f"{origin}: not a SentencePiece model\n  mend: name the .model file (not .vocab or tokenizer.json)"
        ) from error
    return pieces


def _edited(model: bytes, hidden: Collection[int], adds_space: bool = True) -> bytes:
    """A model that makes the ids `hidden` of no text, and without `adds_space` keeps the start of a text as it is."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made at import
    for id in hidden:
        proto.pieces[id].type = proto.pieces[id].CONTROL
    if not adds_space:
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
    return proto.SerializeToString()
