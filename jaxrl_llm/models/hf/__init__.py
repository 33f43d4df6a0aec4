"""Hugging Face checkpoints, in and out: Llama 2 and 3, Mistral, Qwen2, Qwen3, as language or as reward models.

names    which foreign tensor each of our weights is, by its ParamSpec
configs  config.json: which models are ours, what is refused, and how one is written
read     safetensors into sharded float32 weights, a shard at a time
write    the same way back, a tensor at a time
peft     LoRA adapters in PEFT's format, in and out
"""

from jaxrl_llm.models.hf.configs import Description, describe, is_huggingface
from jaxrl_llm.models.hf.peft import base_model, describe_adapter, is_adapter, read_adapter, write_adapter
from jaxrl_llm.models.hf.read import read_weights
from jaxrl_llm.models.hf.write import write_model

__all__ = [
    "Description",
    "base_model",
    "describe",
    "describe_adapter",
    "is_adapter",
    "is_huggingface",
    "read_adapter",
    "read_weights",
    "write_adapter",
    "write_model",
]
