"""Hugging Face directories of the cases in llama_cases, written by hand: no code of ours that reads or writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.golden.llama_cases import BASE, CASES, tokens_BT, weight

FAMILIES = {"llama": "Llama", "llama3": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
REWARD_CASES = ("llama", "qwen2_bias")
LENGTHS = (24, 17)


def family(name: str) -> str:
    return FAMILIES[name.split("_")[0]]


def tensors(name: str, head: str = "lm") -> dict[str, np.ndarray]:
    """The weights that the golden files were made with."""
    c = {**BASE, **CASES[name]}
    d, f, channels = c["d_model"], c["d_ff"], c.get("head_dim", c["d_model"] // c["n_heads"])
    q, kv = c["n_heads"] * channels, c["n_kv_heads"] * channels
    layer = {
        "input_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (q, d),
        "self_attn.k_proj.weight": (kv, d),
        "self_attn.v_proj.weight": (kv, d),
        "self_attn.o_proj.weight": (d, q),
        "post_attention_layernorm.weight": (d,),
        "mlp.gate_proj.weight": (f, d),
        "mlp.up_proj.weight": (f, d),
        "mlp.down_proj.weight": (d, f),
    }
    if c.get("qkv_bias"):
        layer |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
    if c.get("qk_norm"):
        layer |= {"self_attn.q_norm.weight": (channels,), "self_attn.k_norm.weight": (channels,)}
    shapes = {f"layers.{i}.{key}": shape for i in range(c["n_layers"]) for key, shape in layer.items()}
    shapes |= {"embed_tokens.weight": (c["vocab_size"], d), "norm.weight": (d,)}
    out = {f"model.{key}": weight(key, shape) for key, shape in shapes.items()}
    if head == "scalar":
        out["score.weight"] = weight("score.weight", (1, d))
    elif not c.get("tie_embeddings"):
        out["lm_head.weight"] = weight("lm_head.weight", (c["vocab_size"], d))
    return out


def config(name: str, head: str = "lm", layout: int = 5) -> dict[str, Any]:
    """config.json as transformers 4 or 5 writes it."""
    c = {**BASE, **CASES[name]}
    out = {
        "architectures": [family(name) + {"lm": "ForCausalLM", "scalar": "ForSequenceClassification"}[head]],
        "model_type": family(name).lower(),
        "hidden_act": "silu",
        "vocab_size": c["vocab_size"],
        "hidden_size": c["d_model"],
        "intermediate_size": c["d_ff"],
        "num_hidden_layers": c["n_layers"],
        "num_attention_heads": c["n_heads"],
        "num_key_value_heads": c["n_kv_heads"],
        "max_position_embeddings": c["context"],
        "rms_norm_eps": c.get("norm_eps", 1e-5),
        "tie_word_embeddings": c.get("tie_embeddings", False),
        **SPECIAL,
    }
    if "head_dim" in c or layout == 5:
        out["head_dim"] = c.get("head_dim", c["d_model"] // c["n_heads"])
    if family(name) == "Mistral":
        out["sliding_window"] = c.get("sliding_window")
    if family(name).startswith("Qwen"):
        out |= {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 1}
    if head == "scalar":
        out |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": 0}
    rope = dict(c.get("rope_scaling", {"kind": "none"}))
    kind, theta = rope.pop("kind"), c.get("rope_theta", 10_000.0)
    if "original_context" in rope:
        rope["original_max_position_embeddings"] = rope.pop("original_context")
    if layout == 5:
        kind = "default" if kind == "none" else kind
        return {**out, "rope_parameters": {"rope_type": kind, "rope_theta": theta, **rope}}
    word = "type" if kind == "linear" else "rope_type"  # as it was called first
    return {**out, "rope_theta": theta, "rope_scaling": None if kind == "none" else {word: kind, **rope}}


def write(
    directory: Path,
    name: str = "llama",
    *,
    head: str = "lm",
    layout: int = 5,
    dtype: str = "float32",
    shards: int = 1,
    **changes: Any,
) -> Path:
    """The directory of a case; `changes` replace keys of config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**config(name, head, layout), **changes}))
    items = [(key, value.astype(dtype)) for key, value in tensors(name, head).items()]
    if shards == 1:
        save_file(dict(items), directory / "model.safetensors", {"format": "pt"})
        return directory
    where = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(items[i::shards])
        save_file(part, directory / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return directory


def padded_BT() -> np.ndarray:
    """tokens_BT with the second row cut short, 0 (PAD) after it and nowhere else."""
    rows = np.maximum(tokens_BT(), 1)
    rows[1, LENGTHS[1] :] = 0
    return rows
