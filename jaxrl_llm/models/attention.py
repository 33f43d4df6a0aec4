"""Causal attention over whole rows, by a table of implementations that agree to rounding.

Visible to a query: keys that are not later, of its own segment or its parent's, and no further back than the sliding
window.  Segments are documents packed into a row; a parent is the prompt that several answers share.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES, ways

# (q_BTHC, k_BTKC, v_BTKC, segments_BT or None, parents_BT or None, window or None, mesh) -> out_BTHC
Attention = Callable[[Array, Array, Array, Array | None, Array | None, int | None, Mesh], Array]

CUDNN_CHANNELS = 128  # larger heads need a Hopper
SPLASH_TILE = 128  # a TPU's lane width: rows and head sizes must be whole multiples of it
QUERY_BLOCK = 512  # queries whose scores exist at once, where rows are split along T


def visible_segments(queries_BQ: Array, keys_BT: Array, parents_BQ: Array | None) -> Array:
    """[B, 1, Q, T] booleans: the key is of the query's segment or of its parent."""
    keys_B11T = keys_BT[:, None, None, :]
    seen_B1QT = queries_BQ[:, None, :, None] == keys_B11T
    if parents_BQ is not None:
        parents_B1Q1 = parents_BQ[:, None, :, None]
        seen_B1QT |= (parents_B1Q1 == keys_B11T) & (parents_B1Q1 > 0)
    return seen_B1QT


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
        mask=None if segments_BT is None else visible_segments(segments_BT, segments_BT, parents_BT),
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=kernel,
    )


def gathered(
    q_BTHC: Array,
    k_BTKC: Array,
    v_BTKC: Array,
    segments_BT: Array | None,
    parents_BT: Array | None,
    window: int | None,
    mesh: Mesh,
) -> Array:
    """For rows split along T, and masks that no kernel knows: queries stay, the whole row's keys and values come.

    So does Llama 3 (arXiv 2407.21783, 3.3.2): with grouped queries keys and values are a fraction of the activations,
    and any mask is as easy as on one device.  Queries come in blocks, each computed again in the backward pass, so that
    T x T scores never exist.  All devices work alike, though half of it is on keys that the mask hides.
    """
    k_BTKC, v_BTKC = (divisible_heads(x, q_BTHC.shape[2], mesh) for x in (k_BTKC, v_BTKC))
    n_queries = q_BTHC.shape[1] // mesh.shape["context"]
    size = query_block(n_queries)
    places_T = jnp.arange(q_BTHC.shape[1])

    def local(
        q_BQHC: Array, k_BQKC: Array, v_BQKC: Array, segments_BT: Array | None, parents_BT: Array | None
    ) -> Array:
        k_BTKC, v_BTKC = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k_BQKC, v_BQKC))
        first = jax.lax.axis_index("context") * n_queries

        @jax.checkpoint
        def block(start: Array) -> Array:
            def cut(x: Array, at: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(x, at, size, axis=min(1, x.ndim - 1))

            here = first + start
            distance_QT = cut(places_T, here)[:, None] - places_T
            seen = (distance_QT >= 0) & (True if window is None else distance_QT < window)
            if segments_BT is not None:
                parents = None if parents_BT is None else cut(parents_BT, here)
                seen = seen & visible_segments(cut(segments_BT, here), segments_BT, parents)
            return jax.nn.dot_product_attention(
                cut(q_BQHC, start), k_BTKC, v_BTKC, mask=jnp.broadcast_to(seen, (1, 1, *seen.shape)[-4:])
            )

        out_nBQHC = jax.lax.map(block, jnp.arange(0, n_queries, size))
        return jnp.swapaxes(out_nBQHC, 0, 1).reshape(q_BQHC.shape)

    rows = by_row(q_BTHC.shape[0], mesh)
    split, ids = PartitionSpec(rows, "context", "tensor", None), PartitionSpec(rows, None)
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split, split, ids, ids), out_specs=split, check_vma=False)(
        q_BTHC, k_BTKC, v_BTKC, segments_BT, parents_BT
    )


def query_block(n_queries: int) -> int:
    """Queries at once: as many as divide them, up to QUERY_BLOCK; all, where that were few (a prime number has 1)."""
    size = next(n for n in range(min(QUERY_BLOCK, n_queries), 0, -1) if n_queries % n == 0)
    return size if 8 * size >= min(QUERY_BLOCK, n_queries) else n_queries


def divisible_heads(x_BTKC: Array, n_heads: int, mesh: Mesh) -> Array:
    """Keys or values whose heads the tensor axis divides: where it does not, one copy a query head."""
    k = x_BTKC.shape[2]
    return x_BTKC if k % mesh.shape["tensor"] == 0 else jnp.repeat(x_BTKC, n_heads // k, axis=2)


def by_row(n_rows: int, mesh: Mesh) -> tuple[str, ...] | None:
    """The axes that split so many rows; a lone prompt is whole."""
    return BATCH_AXES if n_rows % ways(mesh, BATCH_AXES) == 0 else None


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

    The kernel knows nothing of meshes, so each device runs it on its own rows, heads and, with the keys and values of
    the whole row, its own queries; of the mask it then has its own part.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    n_batch, length, n_heads, channels = q_BTHC.shape
    # A short prompt, say, is too small for the kernel's tiles, and cheap; of parents the kernel knows nothing.
    if length % (SPLASH_TILE * mesh.shape["context"]) or parents_BT is not None:
        in_blocks = splits(length, mesh) or (mesh.shape["context"] == 1 and length > QUERY_BLOCK)
        plain = gathered if in_blocks else partial(_dot_product, kernel="xla")
        return plain(q_BTHC, k_BTKC, v_BTKC, segments_BT, parents_BT, window, mesh)
    k_BTKC, v_BTKC = (divisible_heads(x, n_heads, mesh) for x in (k_BTKC, v_BTKC))
    if segments_BT is None:
        segments_BT = jnp.ones((n_batch, length), jnp.int32)
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * (n_heads // mesh.shape["tensor"])),
        head_shards=1,
        q_seq_shards=mesh.shape["context"],
        block_sizes=kernel.BlockSizes(**splash_blocks(length // mesh.shape["context"], length)),
        interpret=interpret,
    )

    def local(run: Any, q_BQHC: Array, k_BQKC: Array, v_BQKC: Array, queries_BQ: Array) -> Array:
        def whole(x: Array) -> Array:
            return jax.lax.all_gather(x, "context", axis=1, tiled=True)

        def one_row(q_QHC: Array, k_TKC: Array, v_TKC: Array, queries_Q: Array, keys_T: Array) -> Array:
            heads_first = (jnp.swapaxes(x, 0, 1) for x in (q_QHC * channels**-0.5, k_TKC, v_TKC))
            out_HQC = run(*heads_first, segment_ids=kernel.SegmentIds(queries_Q, keys_T))
            return jnp.swapaxes(out_HQC, 0, 1)

        return jax.vmap(one_row)(q_BQHC, whole(k_BQKC), whole(v_BQKC), queries_BQ, whole(queries_BQ))

    split = PartitionSpec(by_row(n_batch, mesh), "context", "tensor", None)
    of_kernel = run.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, "context")))
    in_specs = (of_kernel, split, split, split, PartitionSpec(*split[:2]))
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)(
        run, q_BTHC, k_BTKC, v_BTKC, segments_BT
    )


def splash_blocks(n_queries: int, n_keys: int) -> dict[str, Any]:
    """The kernel's blocks: as large as divide the rows, up to 512, for the forward pass and both backward ones.

    Its own default is 128, a tile, at which it starts more than it computes; MaxText's is 512.  Not measured here.
    """
    q, kv = (next(n for n in (512, 256, SPLASH_TILE) if size % n == 0) for size in (n_queries, n_keys))
    of_queries = dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), q)
    names = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    return of_queries | dict.fromkeys(names, kv)


def splits(length: int, mesh: Mesh) -> bool:
    """Whether rows of this length are split along T."""
    return mesh.shape["context"] > 1 and length % mesh.shape["context"] == 0


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
