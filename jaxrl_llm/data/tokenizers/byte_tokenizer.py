"""UTF-8 bytes as tokens: needs no file, and loses nothing."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jaxrl_llm.data.tokenizers.base import Tokenizer, not_unicode


class BytesTokenizer(Tokenizer):
    """Ids 0 .. 255 are the bytes of UTF-8."""

    kind = "bytes"
    vocab_size = 259
    bos_id, eos_id, pad_id = 256, 257, 258
    stop_ids = frozenset({257})
    bos_token, eos_token = "<s>", "</s>"
    specials = added = {"<s>": 256, "</s>": 257, "<pad>": 258}
    fingerprint = hashlib.sha256(b"bytes, BOS 256, EOS 257, PAD 258").hexdigest()

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:
            raise not_unicode(text) from error

    def encode_parts(self, parts: Sequence[str | int], continued: bool = False) -> list[int]:
        """See `Tokenizer`."""
        return [i for part in parts for i in ([part] if isinstance(part, int) else self.encode(part))]

    def piece(self, id: int) -> bytes:
        """See `Tokenizer`."""
        return bytes((id,)) if 0 <= id < 256 else b""

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind}

    def files(self) -> dict[str, bytes]:
        """See `Tokenizer`: byte-level BPE that has learned no merge, with the same ids."""
        special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        model = {
            "version": "1.0",
            "added_tokens": [{"id": id, "content": text, **special} for text, id in self.specials.items()],
            "pre_tokenizer": level,
            "decoder": level,
            "model": {"type": "BPE", "vocab": {c: byte for byte, c in enumerate(BYTE_LETTERS)}, "merges": []},
        }
        return {
            "tokenizer.json": json.dumps(model, ensure_ascii=False, indent=2).encode(),
            "tokenizer_config.json": config_file(self, "PreTrainedTokenizerFast"),
        }


def config_file(tokenizer: Tokenizer, of_class: str, **more: Any) -> bytes:
    """A tokenizer_config.json with the special tokens of a tokenizer that came without one."""
    spelling = {id: text for text, id in tokenizer.specials.items()}
    tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    if tokenizer.pad_id in spelling:
        tokens["pad_token"] = spelling[tokenizer.pad_id]
    out = {"tokenizer_class": of_class, "add_bos_token": tokenizer.adds_bos, **tokens, **more}
    return json.dumps({key: value for key, value in out.items() if value is not None}, indent=2).encode()


def _byte_letters() -> str:
    """The letter that stands for each byte in byte-level BPE: itself where it can be seen, else the next free one."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in seen else next(others)) for byte in range(256))


BYTE_LETTERS = _byte_letters()
