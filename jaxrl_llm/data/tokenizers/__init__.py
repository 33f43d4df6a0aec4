"""Text to ids and back: UTF-8 bytes, a SentencePiece model (loaded, or trained here), or a tokenizer.json."""

import base64
import json
from pathlib import Path
from typing import Any

from jaxrl_llm.data.config import BytesConfig, HuggingFaceConfig, JsonConfig, SentencePieceConfig, TokenizerConfig
from jaxrl_llm.data.tokenizers.base import Tokenizer
from jaxrl_llm.data.tokenizers.byte_tokenizer import BytesTokenizer
from jaxrl_llm.data.tokenizers.directory import from_packed, load_tokenizer, read_files, save_tokenizer
from jaxrl_llm.data.tokenizers.json_tokenizer import JsonTokenizer
from jaxrl_llm.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from jaxrl_llm.data.tokenizers.training import train_sentencepiece
from jaxrl_llm.errors import UserError

__all__ = [
    "BytesTokenizer",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "save_tokenizer",
    "tokenizer_from_json",
    "train_sentencepiece",
]


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of a config.

    Raises:
        UserError: its file is missing, unreadable or not a model.
    """
    if isinstance(config, BytesConfig):
        return BytesTokenizer()
    path = Path(config.path).expanduser()
    if isinstance(config, HuggingFaceConfig):
        if not path.is_dir():
            raise UserError(f"tokenizer.path={config.path}: no such directory\n  mend: name a Hugging Face directory")
        return load_tokenizer(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer.path={config.path}: {error.strerror}\n  mend: {MENDS[type(config)]}") from error
    if isinstance(config, SentencePieceConfig):
        return SentencePieceTokenizer(content, config.path)
    named = {name: token for name in ("bos_token", "eos_token") if (token := getattr(config, name)) is not None}
    files = {"tokenizer.json": content} | ({"tokenizer_config.json": json.dumps(named).encode()} if named else {})
    return read_files(files, {}, path.parent)


MENDS = {
    SentencePieceConfig: "name a SentencePiece .model file, or make one with `jaxrl-llm tokenizer train`",
    JsonConfig: "name a tokenizer.json",
}


def tokenizer_from_json(json: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_json` described."""
    if json["kind"] == BytesTokenizer.kind:
        return BytesTokenizer()
    if json["kind"] == "huggingface":
        return from_packed(json)
    return SentencePieceTokenizer(base64.b64decode(json["model"]), "the saved tokenizer")
