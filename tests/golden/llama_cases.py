"""Cases for comparing our model with transformers: one dict for both sides, and weights that both make themselves."""

import zlib

import numpy as np

BASE = {
    "vocab_size": 64,
    "context": 64,
    "d_model": 32,
    "d_ff": 48,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
}
CASES = {
    "llama": {},
    "llama_tied": {"tie_embeddings": True},
    "llama_mha_theta": {"n_kv_heads": 4, "rope_theta": 500_000.0, "norm_eps": 1e-3},
    "llama_linear_rope": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "llama3_rope": {
        "rope_scaling": {
            "kind": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_context": 32,
        }
    },
    "mistral_window": {"sliding_window": 5},
    "qwen2_bias": {"qkv_bias": True},
    "qwen3_qk_norm": {"qk_norm": True, "head_dim": 16, "tie_embeddings": True},
}


def tokens_BT() -> np.ndarray:
    """Two rows of 24 ids."""
    return np.random.default_rng(7).integers(0, BASE["vocab_size"], (2, 24))


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 weight that depends on its name alone; norms are around 1."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape).astype(np.float32)
    return 1.0 + 0.1 * values if "norm" in name else 0.2 * values
