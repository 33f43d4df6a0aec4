"""The Hugging Face families that are ours, as tables: their options, their keys and defaults, what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxrl_llm.models.llama import LinearRope, Llama3Rope, NoRopeScaling
from jaxrl_llm.types import Head


@dataclass(frozen=True)
class Family:
    """One of transformers' classes: what it adds to Llama, and what stands for the keys that a config.json lacks."""

    model_type: str
    defaults: Mapping[str, Any]
    window: Literal["none", "all layers", "upper layers"]  # which layers a sliding window can concern
    qkv_bias: bool = False
    qk_norm: bool = False


_ALL: Mapping[str, Any] = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10_000.0}
_MISTRAL = {**_ALL, "max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096}
_QWEN = {
    **_ALL,
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
FAMILIES: Mapping[str, Family] = {
    "Llama": Family("llama", {**_ALL, "max_position_embeddings": 2048}, "none"),
    "Mistral": Family("mistral", _MISTRAL, "all layers"),
    "Qwen2": Family("qwen2", _QWEN, "upper layers", qkv_bias=True),
    "Qwen3": Family("qwen3", {**_QWEN, "head_dim": 128}, "upper layers", qk_norm=True),
}
HEADS: Mapping[str, Head] = {"ForCausalLM": "lm", "ForSequenceClassification": "scalar"}
ARCHITECTURES: Mapping[str, tuple[str, Head]] = {
    family + suffix: (family, head) for family in FAMILIES for suffix, head in HEADS.items()
}

REQUIRED: Mapping[str, str] = {  # our key: theirs
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
KEYS: Mapping[str, str] = {
    **REQUIRED,
    "context": "max_position_embeddings",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}

# Keys that change the function, with the values that leave it as it is here (null always does).
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "quantization_config": (),
    "compression_config": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "per_layer_config": (),
}
ROPE_KEYS: Mapping[str, Mapping[str, str]] = {  # by type: our key: theirs
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_context": "original_max_position_embeddings",
    },
}
ROPES: Mapping[str, Any] = {"default": NoRopeScaling, "linear": LinearRope, "llama3": Llama3Rope}
