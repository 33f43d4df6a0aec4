"""UTF-8 bytes as tokens: needs no file, and loses nothing."""

import hashlib
import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from jaxrl_llm.data.tokenizers.base import Tokenizer, not_unicode
from jaxrl_llm.data.tokenizers.json_format import BYTE_LETTERS, added, bos_first, config_file


class BytesTokenizer(Tokenizer):
    """Ids 0 .. 255 are the bytes of UTF-8."""

    kind = "bytes"
    vocab_size = 259
    bos_id, eos_id, pad_id = 256, 257, 258
    stop_ids = frozenset({257})
    bos_token, eos_token = "<s>", "</s>"
    specials = added = MappingProxyType({"<s>": 256, "</s>": 257, "<pad>": 258})
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
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        model = {
            "version": "1.0",
            "added_tokens": added(self.specials),
            "pre_tokenizer": level,
            "post_processor": bos_first(self.bos_token, self.bos_id),
            "decoder": level,
            "model": {"type": "BPE", "vocab": {c: byte for byte, c in enumerate(BYTE_LETTERS)}, "merges": []},
        }
        return {
            "tokenizer.json": json.dumps(model, ensure_ascii=False, indent=2).encode(),
            "tokenizer_config.json": config_file(self, "PreTrainedTokenizerFast"),
        }
