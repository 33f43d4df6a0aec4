"""The KV cache and attention over it: what makes a token cost one position and not a whole row.

Slot s of a row holds the key and value of its position s.  Rows are filled from the left to `lengths_B`; slots past it
hold whatever was there and are never seen.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class KVCache:
    """Keys and values by layer.  A tuple of arrays and not one stack: a layer's update then copies nothing else."""

    keys: tuple[Array, ...]  # L x [B, S, K, C], rotated, compute dtype
    values: tuple[Array, ...]  # L x [B, S, K, C]
    lengths_B: Array  # int32: positions that are filled


def write_token(cache_BSKC: Array, new_B1KC: Array, lengths_B: Array) -> Array:
    """One token's keys or values into slot lengths_B[b] of each row b."""
    rows = jnp.arange(cache_BSKC.shape[0])
    return cache_BSKC.at[rows, lengths_B].set(new_B1KC[:, 0], mode="drop")


def attend_token(q_B1HC: Array, keys_BSKC: Array, values_BSKC: Array, lengths_B: Array, window: int | None) -> Array:
    """Attention of the token at position lengths_B[b] over slots 0 .. lengths_B[b], [B, 1, H, C]."""
    slots_1S = jnp.arange(keys_BSKC.shape[1])[None]
    seen_BS = slots_1S <= lengths_B[:, None]
    if window is not None:
        seen_BS &= slots_1S > lengths_B[:, None] - window
    return jax.nn.dot_product_attention(
        q_B1HC, keys_BSKC, values_BSKC, mask=seen_BS[:, None, None, :], implementation="xla"
    )
