"""What updates tell the next round: coefficients by hand, an early end, warnings."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.rollout.config import KlConfig, PenaltyConfig
from jaxrl_llm.rollout.sampler import Completion
from tests.rollout.scripted import grade, met, new, state_of


def test_the_coefficient_follows_the_kl() -> None:
    """8 answers, horizon 100: at most 1.6 % a round; KL 5 % above its target: .4 %."""
    source = new(kl=KlConfig(coef=0.1, target=2.0, horizon=100), batch_size=8, epochs=1)
    source.next(state_of(0))
    for kl, expected in [(2.1, 0.1 * 1.004), (50.0, 0.1 * 1.004 * 1.016), (-1.0, 0.1 * 1.004 * 1.016 * 0.984)]:
        source.observe(met(kl=kl))
        batch, metrics = source.next(state_of(0))
        assert metrics["kl_coef"] == pytest.approx(expected, rel=1e-6)
        np.testing.assert_array_equal(batch.kl_coef_B, np.full((1, 8), np.float32(metrics["kl_coef"])))


def test_the_penalty_follows_the_last_epoch() -> None:
    source = new(penalty=PenaltyConfig(coef=1.0, target=0.1), kl_penalty=True)
    for far, expected in [([9.0, 9.0, 0.2, 0.2], 2.0), ([9.0, 9.0, 0.1, 0.1], 2.0), ([9.0, 9.0, 0.0, 0.1], 1.0)]:
        for approx_kl in far:
            source.next(state_of(0))
            source.observe(met(approx_kl_k3=approx_kl))
        saved, _ = source.state()
        assert saved["steering"]["penalty_coef"] == expected
    for _ in range(4):  # a critic learns alone: the policy stands still, which says nothing
        source.next(state_of(0))
        source.observe(met(approx_kl_k3=0.0))
    batch, metrics = source.next(state_of(0))
    assert metrics["penalty_coef"] == 1.0
    np.testing.assert_array_equal(batch.penalty_coef_B, np.ones((1, 4)))
    assert new().next(state_of(0))[0].penalty_coef_B is None


def test_a_round_ends_early_when_the_policy_is_too_far() -> None:
    source = new(stop_kl=0.5)
    rounds = []
    for approx_kl in (0.1, 0.6, 0.1, 0.1, 0.5, 0.4, 0.1):
        rounds.append(source.next(state_of(0))[1]["round"])
        source.observe(met(approx_kl_k3=approx_kl))
    assert rounds == [0, 0, 1, 1, 1, 1, 2]


def test_alarms_ring_when_it_begins() -> None:
    heard: list[str] = []
    scores = iter([0.5, 0.5, None, 0.5])

    def constant(prompts: Any, texts: Any) -> np.ndarray:
        score = next(scores)
        return grade(prompts, texts) if score is None else np.full(len(texts), score, np.float32)

    source = new(constant, epochs=1, batch_size=8)
    source.warn = heard.append
    for _ in range(4):
        source.next(state_of(0))
    assert [text.split(",")[0] for text in heard] == [f"round {i}: all 8 rewards are 0.5" for i in (0, 3)]


def test_alarms_for_ends_kl_and_entropy() -> None:
    heard: list[str] = []

    def endless(weights: Any, ids: Any, *, n: int, **_: Any) -> Any:
        logp = np.zeros(1, np.float32)
        return [[Completion([5 + i], logp, logp, False) for i in range(n)] for _ in ids], SimpleNamespace(occupancy=1)

    source = new(sampler=endless, epochs=1, batch_size=8)
    source.warn = heard.append
    for _ in range(9):
        source.next(state_of(0))
        source.observe(met(kl=-0.1))
    assert len(heard) == 1
    assert "none of the 8 answers ended" in heard[0]
    saved, arrays = source.state()
    source = new(sampler=endless, epochs=1, batch_size=8)
    source.warn = heard.append
    source.restore(saved, arrays)
    source.next(state_of(0))
    source.observe(met(kl=-0.1, entropy=0.09))
    source.next(state_of(0))
    assert len(heard) == 3
    assert "below 0 for 10 rounds" in heard[1]
    assert "fell to 0.09" in heard[2]
