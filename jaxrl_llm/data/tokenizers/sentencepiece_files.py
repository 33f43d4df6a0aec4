"""The files of a Hugging Face directory for a SentencePiece model that came without them."""

import json
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from jaxrl_llm.data.tokenizers.base import Tokenizer
from jaxrl_llm.data.tokenizers.json_format import added, bos_first, config_file

UNIGRAM = 1  # TrainerSpec.ModelType


def sentencepiece_files(model: bytes, tokenizer: Tokenizer, space_after_special: bool) -> dict[str, bytes]:
    """The model, and what makes transformers read it as `tokenizer` does.

    Its LlamaTokenizer takes every model for BPE, so a unigram model gets a tokenizer.json too.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made at import
    files = {"tokenizer.model": model}
    unknown = proto.pieces[proto.trainer_spec.unk_id].piece
    if proto.trainer_spec.model_type == UNIGRAM and proto.normalizer_spec.name == "identity":
        files["tokenizer.json"] = json.dumps(_unigram(proto, tokenizer), ensure_ascii=False).encode()
        files["tokenizer_config.json"] = config_file(tokenizer, "PreTrainedTokenizerFast", unk_token=unknown)
    else:
        spaces = {"legacy": space_after_special, "add_prefix_space": tokenizer.starts_with_space}
        files["tokenizer_config.json"] = config_file(tokenizer, "LlamaTokenizer", unk_token=unknown, **spaces)
    return files


def _unigram(proto: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer.json."""
    spaced = tokenizer.starts_with_space
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" if spaced else "never", "split": False}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spaced else []),
    ]
    return {
        "version": "1.0",
        "added_tokens": added(tokenizer.specials),
        "pre_tokenizer": space,
        "post_processor": bos_first(tokenizer.bos_token or "", tokenizer.bos_id) if tokenizer.adds_bos else None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {
            "type": "Unigram",
            "unk_id": proto.trainer_spec.unk_id,
            "byte_fallback": proto.trainer_spec.byte_fallback,
            "vocab": [[piece.piece, piece.score] for piece in proto.pieces],
        },
    }
