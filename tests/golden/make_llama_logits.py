"""Writes llama_logits.npz with transformers and torch: `python -m tests.golden.make_llama_logits` (needs both)."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.golden.llama_cases import BASE, CASES, tokens_BT, weight

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "llama3": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def rope_parameters(case: dict) -> dict:
    scaling = case.get("rope_scaling", {"kind": "none"})
    out = {"rope_type": "default", "rope_theta": case.get("rope_theta", 10_000.0)}
    if scaling["kind"] == "linear":
        out |= {"rope_type": "linear", "factor": scaling["factor"]}
    if scaling["kind"] == "llama3":
        out |= {"rope_type": "llama3", "original_max_position_embeddings": scaling["original_context"]}
        out |= {k: scaling[k] for k in ("factor", "low_freq_factor", "high_freq_factor")}
    return out


def logits(name: str, case: dict) -> np.ndarray:
    full = {**BASE, **case}
    config_class, model_class = FAMILIES[name.split("_")[0]]
    config = config_class(
        vocab_size=full["vocab_size"],
        hidden_size=full["d_model"],
        intermediate_size=full["d_ff"],
        num_hidden_layers=full["n_layers"],
        num_attention_heads=full["n_heads"],
        num_key_value_heads=full["n_kv_heads"],
        head_dim=full.get("head_dim", full["d_model"] // full["n_heads"]),
        max_position_embeddings=full["context"],
        rms_norm_eps=full.get("norm_eps", 1e-5),
        tie_word_embeddings=full.get("tie_embeddings", False),
        rope_parameters=rope_parameters(full),
        **({"sliding_window": full["sliding_window"]} if "sliding_window" in full else {}),
        attn_implementation="eager",
    )
    model = model_class(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.from_numpy(weight(key.removeprefix("model."), tuple(p.shape))))
        return model(torch.from_numpy(tokens_BT())).logits.numpy()


if __name__ == "__main__":
    np.savez_compressed(
        Path(__file__).parent / "llama_logits.npz", **{name: logits(name, case) for name, case in CASES.items()}
    )
