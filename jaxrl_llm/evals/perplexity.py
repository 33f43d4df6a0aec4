"""How well a model predicts held-out text: loss, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from jaxrl_llm.types import Mean, Model, Params, Tokens


def make_scorer(model: Model) -> Callable[[Params, Tokens], Mean]:
    """Jitted: the summed negative log-likelihood of a batch's targets in nats, and how many there are."""

    def score(params: Params, batch: Tokens) -> Mean:
        logp_BT = model.token_scores(params, batch).logp_BT
        return Mean(-jnp.sum(logp_BT * batch.weights_BT), jnp.sum(batch.weights_BT))

    return jax.jit(score)


def perplexity(
    scorer: Callable[[Params, Tokens], Mean], params: Params, batches: Iterable[Tokens], bytes_per_token: float | None
) -> dict[str, float]:
    """`loss` in nats a token, `perplexity` = exp(loss), `bits_per_byte` = loss / ln 2 / bytes_per_token, `tokens`.

    bytes_per_token is that of the whole text: UTF-8 bytes of the source over targets (end tokens included), so that
    bits per byte compares models with different tokenizers; without it there are none.
    """
    scores = [jax.device_get(scorer(params, batch)) for batch in batches]  # one at a time: a set may be large
    total = math.fsum(float(nll) for nll, _ in scores)
    count = math.fsum(float(n) for _, n in scores)
    loss = total / max(count, 1.0)
    bits = {} if bytes_per_token is None else {"bits_per_byte": loss / math.log(2) / bytes_per_token}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **bits, "tokens": count}
