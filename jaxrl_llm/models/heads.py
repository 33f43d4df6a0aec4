"""What is read off the last layer: logits, or scores of the target tokens without ever holding [B, T, V] in float32."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl_llm.types import TokenScores


def project(hidden_BTD: Array, unembed_DV: Array) -> Array:
    """Float32 logits [B, T, V]; products in the compute dtype, sums in float32."""
    return jnp.einsum("btd,dv->btv", hidden_BTD, unembed_DV, preferred_element_type=jnp.float32)


def score_tokens(hidden_BTD: Array, unembed_DV: Array, targets_BT: Array, temperature: float) -> TokenScores:
    """Scores of the targets from whole logits: log p = logit − log Z, all float32."""
    logits_BTV = project(hidden_BTD, unembed_DV) / temperature
    logz_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    mean_logit_BT = jnp.sum(jnp.exp(logits_BTV - logz_BT[..., None]) * logits_BTV, axis=-1)
    return TokenScores(logp_BT=target_BT - logz_BT, entropy_BT=logz_BT - mean_logit_BT, logz_BT=logz_BT)


def score_tokens_chunked(
    hidden_BTD: Array, unembed_DV: Array, targets_BT: Array, temperature: float, chunks: int
) -> TokenScores:
    """`score_tokens` over pieces of time, each recomputed in the backward pass: 1/chunks of the logits live at once.

    Time is cut and not rows, so that every piece is spread over the devices as the batch is.
    """
    n_batch, length, width = hidden_BTD.shape
    chunks = min(chunks, length)
    if chunks == 1:
        return jax.checkpoint(score_tokens, static_argnums=3)(hidden_BTD, unembed_DV, targets_BT, temperature)
    piece = -(-length // chunks)
    fill = chunks * piece - length  # positions that nobody reads, so that all pieces are of one size
    hidden_NBtD = jnp.pad(hidden_BTD, ((0, 0), (0, fill), (0, 0))).reshape(n_batch, chunks, piece, width).swapaxes(0, 1)
    targets_NBt = jnp.pad(targets_BT, ((0, 0), (0, fill))).reshape(n_batch, chunks, piece).swapaxes(0, 1)

    @jax.checkpoint
    def one(args: tuple[Array, Array]) -> TokenScores:
        return score_tokens(args[0], unembed_DV, args[1], temperature)

    scores_NBt = jax.lax.map(one, (hidden_NBtD, targets_NBt))
    return TokenScores(*(x.swapaxes(0, 1).reshape(n_batch, chunks * piece)[:, :length] for x in scores_NBt))
