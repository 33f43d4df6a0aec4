"""Tokens of a tokenizer.json, through the `tokenizers` library."""

import functools
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import tokenizers

from jaxrl_llm.data.tokenizers.base import AddedToken, Settings, Tokenizer, not_unicode
from jaxrl_llm.data.tokenizers.byte_tokenizer import BYTE_LETTERS, config_file
from jaxrl_llm.errors import UserError

NONCE = secrets.token_hex(8)  # of the private spellings; nobody can guess it, and no id depends on it
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
# How files that do not name their special tokens spell them.
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>", "<|startoftext|>")
EOS_NAMES = ("</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "<|im_end|>")


class JsonTokenizer(Tokenizer):
    """A tokenizer.json.  `origin` names it in errors; `settings` are what the files beside it say.

    Special tokens get private spellings that no text holds, so the library, which finds special tokens in any text,
    finds only those that `encode_parts` puts there.

    Raises:
        UserError: `model` is no tokenizer.json, or one of a kind that cannot be read here, or contradicts `settings`.
    """

    kind = "huggingface"

    def __init__(self, model: bytes, origin: str, settings: Settings, guarded: frozenset[str] = frozenset()) -> None:
        self._model, self._origin, self._settings = model, origin, settings
        parsed = _parse(model, origin)
        words = _words(parsed["model"])
        self.vocab_size = max((*words.values(), *(token["id"] for token in parsed["added_tokens"]), -1)) + 1
        settings = _complete(settings, parsed, words)
        tokens = _added_tokens(settings, parsed, words)
        self.vocab_size = max(self.vocab_size, *(token["id"] + 1 for token in tokens), 0)
        self.added = {token["content"]: token["id"] for token in tokens}
        self.specials = {token["content"]: token["id"] for token in tokens if token["special"]}
        self._settle(settings, origin)
        private = {text: f"\ue000{NONCE}:{id}\ue001" for text, id in self.specials.items() if text in self.specials}
