"""How a model is computed on this machine.  Changes speed and memory, never what is computed."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxrl_llm.schema import schema


@schema
class ComputeConfig:
    """Numbers, memory and kernels of the forward and backward pass."""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of activations and matrix products over float32 master weights; auto: bfloat16 on GPU and TPU, float32 on CPU."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """auto: cudnn on NVIDIA in bfloat16, splash on TPU where its tiles fit, else xla."""
    layers: Literal["scan", "unroll"] = "scan"
    """scan compiles one layer once; unroll compiles each, longer, and runs faster."""
    remat: Literal["none", "dots", "full"] = "none"
    """Kept for the backward pass: everything, the results of weight products (dots), or each layer's input (full)."""
    loss_chunks: int = Field(default=8, ge=1)
    """A row's logits are made in this many pieces, so that float32 [B, T, V] never exists."""
    offload: Literal["none", "frozen"] = "none"
    """frozen: reference and reward models wait in the host's memory, and come to the devices a layer at a time."""


def compute_dtype(config: ComputeConfig) -> jnp.dtype:
    """The dtype that `auto` stands for here."""
    if config.dtype == "auto":
        return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
    return jnp.dtype(config.dtype)
