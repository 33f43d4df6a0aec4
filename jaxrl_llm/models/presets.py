"""Architectures by name, as published.  To add one: an entry here and its exact parameter count in tests/models."""

from collections.abc import Mapping
from typing import Any

from jaxrl_llm.models.llama import Llama3Rope, LlamaConfig

_LLAMA2: Mapping[str, Any] = {"vocab_size": 32_000, "context": 4096}
_LLAMA3: Mapping[str, Any] = {"vocab_size": 128_256, "context": 131_072, "rope_theta": 500_000.0, "n_kv_heads": 8}

PRESETS: Mapping[str, LlamaConfig] = {
    # Ours: a toy for tests, and two sizes for small machines.
    "debug": LlamaConfig(),
    "15m": LlamaConfig(
        vocab_size=32_000, context=256, d_model=288, d_ff=768, n_layers=6, n_heads=6, n_kv_heads=6, tie_embeddings=True
    ),
    "150m": LlamaConfig(
        vocab_size=32_000, context=2048, d_model=768, d_ff=2048, n_layers=14, n_heads=12, n_kv_heads=12
    ),
    "tinyllama-1.1b": LlamaConfig(
        vocab_size=32_000, context=2048, d_model=2048, d_ff=5632, n_layers=22, n_heads=32, n_kv_heads=4
    ),
    "llama2-7b": LlamaConfig(**_LLAMA2, d_model=4096, d_ff=11_008, n_layers=32, n_heads=32, n_kv_heads=32),
    "llama2-13b": LlamaConfig(**_LLAMA2, d_model=5120, d_ff=13_824, n_layers=40, n_heads=40, n_kv_heads=40),
    "llama2-70b": LlamaConfig(**_LLAMA2, d_model=8192, d_ff=28_672, n_layers=80, n_heads=64, n_kv_heads=8),
    "llama3.1-8b": LlamaConfig(
        **_LLAMA3, d_model=4096, d_ff=14_336, n_layers=32, n_heads=32, rope_scaling=Llama3Rope(factor=8.0)
    ),
    "llama3.1-70b": LlamaConfig(
        **_LLAMA3, d_model=8192, d_ff=28_672, n_layers=80, n_heads=64, rope_scaling=Llama3Rope(factor=8.0)
    ),
    "llama3.2-1b": LlamaConfig(
        **_LLAMA3,
        d_model=2048,
        d_ff=8192,
        n_layers=16,
        n_heads=32,
        rope_scaling=Llama3Rope(factor=32.0),
        tie_embeddings=True,
    ),
    "llama3.2-3b": LlamaConfig(
        **_LLAMA3,
        d_model=3072,
        d_ff=8192,
        n_layers=28,
        n_heads=24,
        rope_scaling=Llama3Rope(factor=32.0),
        tie_embeddings=True,
    ),
}
