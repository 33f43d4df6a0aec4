"""From logits to a token: filters by hand, frequencies by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.rollout.sampling import NEVER, SamplingConfig, draw, filtered, penalise

P = np.float32([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = jnp.log(jnp.asarray(P))[None] + 3.0  # a constant changes nothing


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (SamplingConfig(), 5),
        (SamplingConfig(top_k=2), 2),
        (SamplingConfig(top_k=9), 5),
        (SamplingConfig(top_p=0.5), 2),  # .4 is not yet .5
        (SamplingConfig(top_p=0.71), 3),
        (SamplingConfig(top_p=1e-6), 1),  # always at least one
        (SamplingConfig(top_p=1.0), 5),
        (SamplingConfig(min_p=0.3), 3),  # .15 >= .3 x .4
        (SamplingConfig(top_k=4, min_p=0.3), 3),
        (SamplingConfig(top_k=3, top_p=0.5), 2),  # of what top-k left, .4 and .3 are .47 and .35
    ],
    ids=str,
)
def test_filters_keep_the_likeliest(config: SamplingConfig, kept: int) -> None:
    assert (filtered(config, LOGITS)[0] > NEVER).tolist() == [i < kept for i in range(5)]


def test_drawn_frequencies_and_log_probabilities() -> None:
    n = 20_000
    config = SamplingConfig(temperature=0.7, top_k=3)
    keys = jax.random.split(jax.random.key(0), n)
    drawn = jax.jit(lambda keys: draw(config, keys, jnp.broadcast_to(LOGITS, (n, 5))))(keys)
    sharp = P[:3] ** (1 / 0.7) / (P[:3] ** (1 / 0.7)).sum()
    frequency = np.bincount(drawn.tokens_B, minlength=5) / n
    np.testing.assert_allclose(frequency[:3], sharp, atol=4 * np.sqrt(0.25 / n))
    assert frequency[3:].sum() == 0
    np.testing.assert_allclose(drawn.logp_B, np.log(sharp)[drawn.tokens_B], atol=1e-6)
    np.testing.assert_allclose(drawn.plain_B, np.log(P)[drawn.tokens_B], atol=1e-6)


def test_greedy_is_certain_of_itself() -> None:
    drawn = draw(SamplingConfig(temperature=0.0), jax.random.split(jax.random.key(0), 1), LOGITS)
    assert (int(drawn.tokens_B[0]), float(drawn.logp_B[0])) == (0, 0.0)
    assert float(drawn.plain_B[0]) == pytest.approx(np.log(0.4))


def test_penalty_makes_seen_tokens_less_likely_on_both_sides_of_zero() -> None:
    logits = jnp.asarray([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.asarray([[True, True, False, False]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
