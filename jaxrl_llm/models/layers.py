"""The parts of a layer: RMSNorm, products with weights, rotary embeddings.  Pure functions of arrays."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Rope = Callable[[Array], Array]  # [B, T, heads, C] -> the same, rotated by position


def rms_norm(x_BTD: Array, scale_D: Array, eps: float) -> Array:
    """x / rms(x) x scale over the last axis; the statistics in float32 (Zhang & Sennrich, arXiv 1910.07467)."""
    x32 = x_BTD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return ((x32 * inverse) * scale_D.astype(jnp.float32)).astype(x_BTD.dtype)


def contract(x: Array, w: Array) -> Array:
    """x [B, T, inputs...] times w [inputs..., outputs...]: [B, T, outputs...]."""
    return jnp.tensordot(x, w, axes=x.ndim - 2)


def rope_frequencies(channels: int, theta: float, scaling: Any) -> Array:
    """Radians a position for each of the C/2 pairs of channels, float32, with the config's scaling applied."""
    freq = theta ** -(jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)
    if scaling.kind == "linear":
        return freq / scaling.factor
    if scaling.kind == "llama3":
        # In the original context a pair turns `turns` times.  Fewer than low: slowed; more than high: kept.
        turns = scaling.original_context * freq / (2 * math.pi)
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = jnp.clip(keep, 0.0, 1.0)
        return keep * freq + (1.0 - keep) * freq / scaling.factor
    return freq


def make_rope(positions_BT: Array, frequencies: Array) -> Rope:
    """Rotary embedding (Su et al., arXiv 2104.09864), pairs (i, i + C/2) as Hugging Face's checkpoints store them."""
    angle_BT1C = positions_BT.astype(jnp.float32)[:, :, None, None] * frequencies
    cos, sin = jnp.cos(angle_BT1C), jnp.sin(angle_BT1C)

    def rope(x_BTHC: Array) -> Array:
        first, second = jnp.split(x_BTHC.astype(jnp.float32), 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x_BTHC.dtype)

    return rope
