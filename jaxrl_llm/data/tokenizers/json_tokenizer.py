"""Tokens of a tokenizer.json, through the `tokenizers` library."""

import functools
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tokenizers

from jaxrl_llm.data.tokenizers import json_format
from jaxrl_llm.data.tokenizers.base import Settings, Tokenizer, any_of, not_unicode
from jaxrl_llm.errors import UserError

NONCE = secrets.token_hex(8)  # of the private spellings; nobody can guess it, and no id depends on it
# How files that do not name their special tokens spell them.
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>", "<|startoftext|>")
EOS_NAMES = ("</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "<|im_end|>")


class JsonTokenizer(Tokenizer):
    """A tokenizer.json.  `origin` names it in errors; `settings` are what the files beside it say.

    The library finds special tokens in any text.  So here they have private spellings, which no text holds, and it
    finds those alone that `encode_parts` puts there.

    Raises:
        UserError: `model` is no tokenizer.json, is of a kind that cannot be read here, or contradicts `settings`.
    """

    kind = "huggingface"

    def __init__(self, model: bytes, origin: str, settings: Settings) -> None:
        self._model, self._origin, self._settings = model, origin, settings
        with json_format.corrupt_where_it_fails(origin):
            parsed = json_format.parse(model)
            ids = json_format.token_ids(parsed)
            settings = _complete(settings, parsed, ids)
            tokens = json_format.added_tokens(parsed, settings, ids, origin)
            self.added = {token["content"]: token["id"] for token in tokens}
            self.specials = {token["content"]: token["id"] for token in tokens if token["special"]}
            self.vocab_size = max((*ids.values(), *self.added.values())) + 1
            self._bytes = json_format.piece_reader(parsed, origin)
            self._private = {text: f"\ue000{NONCE} {id}\ue001" for text, id in self.specials.items()}
            json_format.rename(parsed, tokens, self._private)
            self._library = _load(parsed, self.added, self._private, origin)
        self._names = {id: self._private[text] for text, id in self.specials.items()}
        self._settle(settings, origin)
        self._cache: dict[int, bytes] = {}
        self.starts_with_space = b"".join(map(self.piece, self.encode("a"))) == b" a"
        defined = (self.bos_id, self.eos_id, self.pad_id, sorted(self.added.items()), sorted(self.specials))
        self.fingerprint = hashlib.sha256(model + repr(defined).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return _encode(self._library, text)

    def encode_parts(self, parts: Sequence[str | int], continued: bool = False) -> list[int]:
        """See `Tokenizer`."""
        if continued and self.starts_with_space and parts and isinstance(parts[0], str):
            found = self._ordinary.search(parts[0])  # what comes after an added token no longer goes on after the text
            end = len(parts[0]) if found is None else found.start()
            return [*_encode(self._further, parts[0][:end]), *self.encode_parts([parts[0][end:], *parts[1:]])]
        return self.encode("".join(self._names[part] if isinstance(part, int) else part for part in parts))

    def piece(self, id: int) -> bytes:
        """See `Tokenizer`."""
        if id not in self._cache:
            token = None if id in self._names else self._library.id_to_token(id) if id >= 0 else None
            self._cache[id] = b"" if token is None else token.encode() if token in self.added else self._bytes(token)
        return self._cache[id]

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return self._settings.to_json()

    def files(self) -> dict[str, bytes]:
        """See `Tokenizer`."""
        files = dict(self._settings.files)
        if "tokenizer_config.json" not in files:
            files["tokenizer_config.json"] = json_format.config_file(self, "PreTrainedTokenizerFast")
        return files

    def guarded(self, names: Iterable[str]) -> Tokenizer:
        """See `Tokenizer`."""
        more = self.added.keys() & set(names) - self.specials.keys()
        if not more:
            return self
        return JsonTokenizer(self._model, self._origin, replace(self._settings, special=self._settings.special | more))

    @functools.cached_property
    def _ordinary(self) -> re.Pattern[str]:
        """Finds added tokens that are not special."""
        return any_of(self.added.keys() - self.specials.keys())

    @functools.cached_property
    def _further(self) -> tokenizers.Tokenizer:
        """Encodes text that goes on after other text."""
        parsed = json.loads(self._library.to_str())
        json_format.drop_space(parsed)
        return _load(parsed, self.added, self._private, self._origin)


def _complete(settings: Settings, parsed: dict[str, Any], ids: Mapping[str, int]) -> Settings:
    """What the files beside the vocabulary leave open, from the vocabulary's file."""
    start = json_format.first_special(parsed)
    if settings.bos_token is None and settings.bos_id is None and "tokenizer_config.json" not in settings.files:
        bos = next((name for name in (start, *BOS_NAMES) if name in ids), None)
        settings = replace(settings, bos_token=bos)
    if settings.eos_token is None and not settings.eos_ids:
        settings = replace(settings, eos_token=next((name for name in EOS_NAMES if name in ids), None))
    if settings.adds_bos is None:
        bos_id = ids.get(settings.bos_token, -1) if settings.bos_token is not None else settings.bos_id
        settings = replace(settings, adds_bos=start is not None and ids.get(start) == bos_id)
    return settings


def _load(
    parsed: dict[str, Any], added: Mapping[str, int], private: Mapping[str, str], origin: str
) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(json.dumps(parsed, ensure_ascii=False))
    for text, id in added.items():
        if library.token_to_id(private.get(text, text)) != id:
            raise UserError(
                f"{origin}: the added token {text!r} cannot have the id {id}: ids of added tokens go on after the "
                "vocabulary's without a gap\n  mend: correct added_tokens"
            )
    return library


def _encode(library: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise not_unicode(text) from error
    return library.encode(text, add_special_tokens=False).ids
