"""Causal attention over whole rows, by a table of implementations that agree to rounding.

Visible to a query: keys that are not later, of its own segment or its parent's, and no further back than the sliding
window.  Segments are documents packed into a row; a parent is the prompt that several answers share.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES

# (q_BTHC, k_BTKC, v_BTKC, segments_BT or None, parents_BT or None, window or None, mesh) -> out_BTHC
Attention = Callable[[Array, Array, Array, Array | None, Array | None, int | None, Mesh], Array]

CUDNN_CHANNELS = 128  # larger heads need a Hopper
SPLASH_TILE = 128  # a TPU's lane width: rows and head sizes must be whole multiples of it


def visible_segments(segments_BT: Array | None, parents_BT: Array | None) -> Array | None:
    """[B, 1, T, T] booleans: the key is of the query's segment or of its parent."""
    if segments_BT is None:
        return None
    keys_B11T = segments_BT[:, None, None, :]
    seen_B1TT = segments_BT[:, None, :, None] == keys_B11T
    if parents_BT is not None:
        parents_B1T1 = parents_BT[:, None, :, None]
        seen_B1TT |= (parents_B1T1 == keys_B11T) & (parents_B1T1 > 0)
    return seen_B1TT


def _dot_product(
    q_BTHC: Array,
    k_BTKC: Array,
    v_BTKC: Array,
    segments_BT: Array | None,
    parents_BT: Array | None,
    window: int | None,
    mesh: Mesh,
    *,
    kernel: Literal["xla", "cudnn"],
) -> Array:
    """JAX's own attention: `xla` is einsum, float32 softmax, einsum; `cudnn` is NVIDIA's fused kernel.

    cuDNN takes no mask of odd length: such rows go through XLA.
    """
    if segments_BT is not None and segments_BT.shape[1] % 2:
        kernel = "xla"
    return jax.nn.dot_product_attention(
        q_BTHC,
        k_BTKC,
        v_BTKC,
        mask=visible_segments(segments_BT, parents_BT),
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=kernel,
    )


def splash(
    q_BTHC: Array,
    k_BTKC: Array,
    v_BTKC: Array,
    segments_BT: Array | None,
    parents_BT: Array | None,
    window: int | None,
    mesh: Mesh,
    *,
    interpret: bool = False,
) -> Array:
    """The Pallas splash kernel for TPU: blocks that the mask leaves empty are never computed.

    The kernel knows nothing of meshes, so each device runs it on its own rows and heads.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    n_batch, length, n_heads, channels = q_BTHC.shape
    # A short prompt, say, is too small for the kernel's tiles, and cheap; of parents the kernel knows nothing.
    if length % SPLASH_TILE or parents_BT is not None:
        return _dot_product(q_BTHC, k_BTKC, v_BTKC, segments_BT, parents_BT, window, mesh, kernel="xla")
    if k_BTKC.shape[2] % mesh.shape["tensor"]:  # KV heads that the tensor axis does not divide: one copy a query head
        k_BTKC, v_BTKC = (jnp.repeat(x, n_heads // x.shape[2], axis=2) for x in (k_BTKC, v_BTKC))
    if segments_BT is None:
        segments_BT = jnp.ones((n_batch, length), jnp.int32)
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)

    def local(q_BTHC: Array, k_BTKC: Array, v_BTKC: Array, segments_BT: Array) -> Array:
        run = kernel.make_splash_mha(
            masks.MultiHeadMask([mask] * q_BTHC.shape[2]), head_shards=1, q_seq_shards=1, interpret=interpret
        )

        def one_row(q_THC: Array, k_TKC: Array, v_TKC: Array, segments_T: Array) -> Array:
            heads_first = (jnp.swapaxes(x, 0, 1) for x in (q_THC * channels**-0.5, k_TKC, v_TKC))
            out_HTC = run(*heads_first, segment_ids=kernel.SegmentIds(segments_T, segments_T))
            return jnp.swapaxes(out_HTC, 0, 1)

        return jax.vmap(one_row)(q_BTHC, k_BTKC, v_BTKC, segments_BT)

    by_row = BATCH_AXES if n_batch % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None  # a lone prompt is whole
    heads, rows = PartitionSpec(by_row, None, "tensor", None), PartitionSpec(by_row, None)
    return jax.shard_map(local, mesh=mesh, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        q_BTHC, k_BTKC, v_BTKC, segments_BT
    )


ATTENTION: Mapping[str, Attention] = {
    "xla": partial(_dot_product, kernel="xla"),
    "cudnn": partial(_dot_product, kernel="cudnn"),
    "splash": splash,
}


def fits_cudnn(channels: int) -> bool:
    """Whether cuDNN's kernel takes heads of this size, on all the GPUs that have it."""
    return channels % 8 == 0 and channels <= CUDNN_CHANNELS


def choose_attention(name: str, dtype: jnp.dtype, channels: int, mesh: Mesh) -> str:
    """The implementation that `auto` stands for on this mesh's devices; a named one is checked against them.

    Asked of the mesh and not of the default backend, because a mesh may be a description of a pod that is not here.
    """
    platform = mesh.devices.flat[0].platform
    if name == "cudnn" and (platform not in ("gpu", "cuda") or dtype == jnp.float32):
        raise UserError(
            f"compute.attention=cudnn needs an NVIDIA GPU and compute.dtype=bfloat16; here: {platform}, {dtype.name}\n"
            "  mend: compute.attention=auto"
        )
    if name == "cudnn" and not fits_cudnn(channels):
        raise UserError(
            f"compute.attention=cudnn takes heads of a multiple of 8 channels, at most {CUDNN_CHANNELS}; "
            f"here: {channels}\n  mend: compute.attention=auto"
        )
    if name == "splash" and (platform != "tpu" or channels % SPLASH_TILE):
        raise UserError(
            f"compute.attention=splash needs a TPU and heads of a multiple of {SPLASH_TILE} channels; "
            f"here: {platform}, {channels} channels\n  mend: compute.attention=auto"
        )
    if name != "auto":
        return name
    if platform in ("gpu", "cuda") and dtype != jnp.float32 and fits_cudnn(channels):
        return "cudnn"
    if platform == "tpu" and channels % SPLASH_TILE == 0:
        return "splash"
    return "xla"
