"""The losses of reward models against hand arithmetic and the formulas written naively."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos.reward import RewardConfig, build
from jaxrl_llm.errors import UserError
from jaxrl_llm.types import Labelled, Pairs
from tests.algos.lookup import divided, objective, packed, pairs_of, reward_model, table


def nls(x: Any) -> Any:
    """−log σ(x), naively."""
    return np.log1p(np.exp(-np.asarray(x, float)))


def run(config: RewardConfig, batch: Any, **tables: Any) -> tuple[float, dict[str, float]]:
    algo = build(config, {"reward": reward_model()})
    params = {"reward": tables}
    return float(objective(algo)(params, batch)), divided(algo.loss(params, batch)[1])


TWO = packed([(1, 1), (1, 1), ()])  # and an empty row
SCORES = table([2.0], [0.5], [-1.0], [-1.0])


def two(**columns: Any) -> Pairs:
    return pairs_of(TWO, [(0, 1, 1.0), (2, 3, 1.0)], **columns)


def test_bradley_terry() -> None:
    loss, metrics = run(RewardConfig(), two(), score=SCORES)
    assert loss == pytest.approx((nls(1.5) + nls(0)) / 2)
    assert metrics == pytest.approx({"accuracy": 0.75, "margin": 0.75, "score_mean": 0.125})


@pytest.mark.parametrize(
    ("margin", "expected", "given"),
    [("small", 2 / 3, 0.5), ("large", 2.0, 0.5), ("column", 0.7, 0.5), ("none", 0.0, None)],
)
def test_margins_and_pairs_without_one(margin: Any, expected: float, given: float | None) -> None:
    batch = two(margins=[0.7, 0.0], ratings=[2, -1])
    loss, metrics = run(RewardConfig(margin=margin), batch, score=SCORES)
    assert loss == pytest.approx((nls(1.5 - expected) + nls(0)) / 2)
    assert metrics.get("margin_given") == given
    assert metrics["accuracy"] == 0.75  # of the scores, whatever the margin


@pytest.mark.parametrize(("rating", "small", "large"), [(3, 1, 3), (2, 2 / 3, 2), (1, 1 / 3, 1), (0, 0, 0)])
def test_the_published_margins(rating: int, small: float, large: float) -> None:
    for margin, expected in (("small", small), ("large", large)):
        loss, metrics = run(RewardConfig(margin=margin), two(ratings=[rating, rating]), score=SCORES)  # type: ignore[arg-type]
        assert loss == pytest.approx((nls(1.5 - expected) + nls(-expected)) / 2, rel=1e-6)
        assert metrics["margin_given"] == 1


def ranked(scores: list[list[float]], ranks: list[list[int]]) -> Pairs:
    """Groups of K answers as the data has them: all pairs of unequal rank, of weight 1 / how many there are."""
    answers, pairs = packed([(1,) * len(group) for group in scores]), []
    slots = answers.segment_BA.shape[1]
    for b, group in enumerate(ranks):
        found = [(i, j) for i, j in itertools.permutations(range(len(group)), 2) if group[i] < group[j]]
        pairs += [(b * slots + i, b * slots + j, 1 / len(found)) for i, j in found]
    return pairs_of(answers, pairs)


def naive(scores: list[list[float]], ranks: list[list[int]]) -> float:
    """InstructGPT's: for each prompt the mean over its pairs, then the mean over prompts; ties are no pairs."""
    by_prompt = []
    for r, rank in zip(scores, ranks, strict=True):
        losses = []
        for i, j in itertools.combinations(range(len(r)), 2):
            if rank[i] != rank[j]:
                w, l = (i, j) if rank[i] < rank[j] else (j, i)
                losses.append(nls(r[w] - r[l]))
        if losses:
            by_prompt.append(np.mean(losses))
    return float(np.mean(by_prompt))


@pytest.mark.parametrize(
    "ranks",
    [
        [[0, 1], [1, 0]],  # K = 2: pairs
        [[0, 1, 2, 3], [1, 0], [2, 0, 1]],
        [[0, 1, 1, 3], [0, 0], [1, 1, 0]],  # ties drop, and with them a prompt that has nothing else
    ],
    ids=["pairs", "K", "ties"],
)
def test_rankings_are_instruct_gpts_formula(ranks: list[list[int]]) -> None:
    scores = [list(np.random.default_rng(len(group)).normal(size=len(group))) for group in ranks]
    loss, _ = run(RewardConfig(), ranked(scores, ranks), score=table([r for group in scores for r in group]))
    assert loss == pytest.approx(naive(scores, ranks), rel=1e-5)


def test_scores_are_read_at_last_tokens_alone() -> None:
    batch = pairs_of(packed([(2, 3)]), [(1, 0, 1.0)])
    algo = build(RewardConfig(), {"reward": reward_model()})
    score = table([1, 2], [3, 4, 5])
    grad = jax.grad(objective(algo))({"reward": {"score": score}}, batch)["reward"]["score"]
    slope = 1 / (1 + np.exp(5 - 2))
    np.testing.assert_allclose(grad, [0, 0, slope, 0, 0, -slope], rtol=1e-6)


def test_centring_is_a_term_of_its_own() -> None:
    loss, _ = run(RewardConfig(centring=0.01), two(), score=SCORES)
    assert loss == pytest.approx((nls(1.5) + nls(0)) / 2 + 0.01 * (2.5**2 + 2.0**2) / 2)


def test_pointwise() -> None:
    batch = Labelled(TWO, jnp.asarray([[1, 0], [0, 1], [-1, -1]]))
    loss, metrics = run(RewardConfig(loss="pointwise"), batch, score=table([2.0], [0.5], [-1.0], [0.0]))
    assert loss == pytest.approx(np.mean(nls([2.0, -0.5, 1.0, 0.0])))
    assert metrics == pytest.approx(
        {"accuracy": (1 + 0 + 1 + 0.5) / 4, "score_wanted": 1.0, "score_unwanted": -0.25, "score_mean": 0.375}
    )


def test_the_safety_head_learns_what_is_said() -> None:
    config = RewardConfig(safety_weight=0.5)
    assert config.trained == {"reward": "scalar+safety"}
    assert build(config, {"reward": reward_model()}).sparse == {"safety"}  # a batch may say nothing of it
    safe = jnp.asarray([[1, 0], [-1, 1], [1, 1]])  # the last two say something of empty slots
    batch = two().replace(answers=TWO.replace(safe_BA=safe))  # type: ignore[attr-defined]
    loss, metrics = run(config, batch, score=SCORES, safety=table([3.0], [1.0], [9.0], [0.0]))
    assert loss == pytest.approx((nls(1.5) + nls(0)) / 2 + 0.5 * np.mean(nls([3.0, -1.0, 0.0])))
    assert metrics["safety_accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    with pytest.raises(UserError, match="algo.safety_weight"):
        run(config, two(), score=SCORES, safety=SCORES)


def test_the_config_says_head_and_noun_and_refuses_what_would_do_nothing() -> None:
    assert RewardConfig().trained == {"reward": "scalar"}
    assert (RewardConfig().consumes, RewardConfig(loss="pointwise").consumes) == (Pairs, Labelled)
    for misfit in ({"margin": "small"}, {"centring": 0.01}):
        with pytest.raises(ValueError, match="pointwise has none"):
            RewardConfig(loss="pointwise", **misfit)
