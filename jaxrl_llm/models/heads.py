"""What is read off the last layer: logits, or scores of the target tokens without ever holding [B, T, V] in float32."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl_llm.types import TokenScores


def project(hidden_BTD: Array, unembed_DV: Array) -> Array:
    """Float32 logits [..., V]; products in the compute dtype, sums in float32."""
    return jnp.einsum("...d,dv->...v", hidden_BTD, unembed_DV, preferred_element_type=jnp.float32)


def score_tokens(hidden_BTD: Array, unembed_DV: Array, targets_BT: Array, temperature: float) -> TokenScores:
    """Scores of the targets, of any leading shape, from whole logits: log p = logit − log Z, all float32."""
    logits_BTV = project(hidden_BTD, unembed_DV) / temperature
    logz_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    mean_logit_BT = jnp.sum(jnp.exp(logits_BTV - logz_BT[..., None]) * logits_BTV, axis=-1)
    return TokenScores(logp_BT=target_BT - logz_BT, entropy_BT=logz_BT - mean_logit_BT, logz_BT=logz_BT)


def score_tokens_chunked(
    hidden_BTD: Array,
    unembed_DV: Array,
    targets_BT: Array,
    wanted_BT: Array,
    temperature: float,
    chunks: int,
    mesh_axes: tuple[str, ...] = (),
) -> TokenScores:
    """`score_tokens` where `wanted_BT` is true, 0 elsewhere, in pieces of which one has its logits in memory at a time.

    The wanted positions of all rows come first and are cut into pieces, each recomputed in the backward pass; a piece
    with none of them is skipped.  So the unembedding costs what is trained, not what is read.

    Within a `shard_map`, `mesh_axes` are those that split the rows: a piece is skipped by all devices or by none, since
    they may have to talk to each other about it.
    """
    shape, width = targets_BT.shape, hidden_BTD.shape[-1]
    size = targets_BT.size
    chunks = min(chunks, size)
    piece = -(-size // chunks)
    fill = chunks * piece - size  # positions that nobody reads, so that all pieces are of one size
    order = jnp.argsort(~wanted_BT.reshape(-1), stable=True)
    n_wanted = jnp.sum(wanted_BT, dtype=jnp.int32)
    if mesh_axes:
        n_wanted = jax.lax.pmax(n_wanted, mesh_axes)

    def cut(x: Array) -> Array:
        sorted_x = x.at[order].get(unique_indices=True, mode="promise_in_bounds")
        padded = jnp.pad(sorted_x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(chunks, piece, *x.shape[1:])

    def scored(hidden_nD: Array, targets_n: Array) -> TokenScores:
        return score_tokens(hidden_nD, unembed_DV, targets_n, temperature)

    def skipped(hidden_nD: Array, targets_n: Array) -> TokenScores:
        nothing_n = 0.0 * targets_n  # a product, so that it varies over the mesh as the scores do
        return TokenScores(nothing_n, nothing_n, nothing_n)

    @jax.checkpoint  # around the choice: a branch would hand the whole matrix on to the backward pass, once a piece
    def one(args: tuple[Array, Array, Array]) -> TokenScores:
        number, hidden_nD, targets_n = args
        return jax.lax.cond(number * piece < n_wanted, scored, skipped, hidden_nD, targets_n)

    pieces = (jnp.arange(chunks), cut(hidden_BTD.reshape(size, width)), cut(targets_BT.reshape(-1)))
    scores, back = jax.lax.map(one, pieces), jnp.argsort(order)
    whole = (x.reshape(-1).at[back].get(unique_indices=True).reshape(shape) for x in scores)
    return TokenScores(*(jnp.where(wanted_BT, x, 0.0) for x in whole))
