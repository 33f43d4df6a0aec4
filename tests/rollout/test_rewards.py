"""What answers are worth: each rule against numbers worked by hand, and every wrong number named."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from jaxrl_llm.errors import UserError
from jaxrl_llm.rollout.config import (
    LengthPenaltyConfig,
    ModelRewardConfig,
    RewardsConfig,
    TaskRewardConfig,
)
from jaxrl_llm.rollout.rewards import Composed, Moments, Written, checked, compose, scaled
from jaxrl_llm.types import ScoreScale

ENDED = Written(
    ended_B=np.asarray([True, True, False, True]),
    lengths_B=np.asarray([3, 5, 8, 1]),
    safety_B=np.asarray([False, True, False, False]),
)
SCORE = np.asarray([0.25, -1.5, 2.0, 0.1], np.float32)
GRADE = TaskRewardConfig()
NEW = Moments()
TWO = {"helpfulness": ModelRewardConfig(path="h"), "safety": ModelRewardConfig(path="s")}


def composed(given: dict[str, np.ndarray] | None = None, moments: Moments = NEW, **config: Any) -> Composed:
    config.setdefault("parts", {"grade": GRADE})
    return compose({"grade": SCORE} if given is None else given, ENDED, RewardsConfig(**config), moments)


def test_fractions_survive() -> None:
    found = composed()
    assert found.score_B.dtype == np.float32
    np.testing.assert_array_equal(found.score_B, SCORE)
    assert found.metrics == {
        "reward/grade": np.mean(SCORE.astype(np.float64)),
        "reward/combined": pytest.approx(0.2125),
    }


def test_parts_are_weighed() -> None:
    found = composed(
        {"grade": SCORE, "judge": np.asarray([1.0, 0.5, 0.0, -1.0], np.float32)},
        parts={"grade": TaskRewardConfig(weight=2.0), "judge": ModelRewardConfig(path="x", weight=-0.5)},
    )
    np.testing.assert_allclose(found.score_B, [0.0, -3.25, 4.0, 0.7], rtol=1e-6)
    assert found.metrics["reward/judge"] == 0.125  # as it was given


def test_safety_counts_if_tagged_or_low_and_helpfulness_else() -> None:
    low = np.log(0.15 / 0.85)  # −1.7346
    helpfulness = np.asarray([10.0, 20.0, 30.0, 40.0], np.float32)
    safety = np.asarray([low - 0.001, 17.0, low + 0.001, 3.0], np.float32)  # the second prompt is about safety
    parts = {"helpfulness": helpfulness, "safety": safety}
    found = composed(parts, parts=TWO, combine="safety_first")
    np.testing.assert_array_equal(found.score_B, [safety[0], 17.0, 30.0, 40.0])
    assert found.metrics["reward/safety_share"] == 0.5
    np.testing.assert_array_equal(
        composed(parts, parts=TWO, combine="safety_first", safety_threshold=0.5).score_B,
        [safety[0], 17.0, safety[2], 40.0],
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"helpfulness": GRADE}, "needs the parts"),
        ({**TWO, "grade": GRADE}, "needs the parts"),
        ({**TWO, "safety": GRADE}, "raw"),
        ({**TWO, "safety": ModelRewardConfig(path="s", scale="centred")}, "raw"),
        ({**TWO, "safety": ModelRewardConfig(path="s", weight=-1.0)}, "positive"),
    ],
)
def test_safety_first_wants_two_models(parts: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RewardsConfig(parts=parts, combine="safety_first")


def test_a_missing_end_replaces_or_adds() -> None:
    np.testing.assert_array_equal(composed(missing_end="replace").score_B, [*SCORE[:2], -1.0, SCORE[3]])
    np.testing.assert_array_equal(
        composed(missing_end="add", missing_end_value=-0.5).score_B, [*SCORE[:2], 1.5, SCORE[3]]
    )


def test_length_costs_beyond_the_free_tokens() -> None:
    parts = {"grade": GRADE, "length": LengthPenaltyConfig(free=3, weight=0.25)}
    found = composed(parts=parts)
    np.testing.assert_array_equal(found.score_B, [0.25, -2.0, 0.75, SCORE[3]])
    np.testing.assert_array_equal(found.parts["length"], [0, -2, -5, 0])
    assert found.metrics["reward/length"] == -1.75


def test_clipping() -> None:
    np.testing.assert_array_equal(composed(clip=1.0).score_B, [SCORE[0], -1.0, 1.0, SCORE[3]])


def test_whitening_by_the_round() -> None:
    plain = SCORE.astype(np.float64)
    white = (plain - plain.mean()) / np.sqrt(plain.var() + 1e-8)
    far = Moments().including(np.asarray([100.0, 200.0]))  # of other rounds: whitening does not look at them
    np.testing.assert_allclose(composed(normalise="whiten", moments=far).score_B, white, rtol=1e-6)
    np.testing.assert_allclose(composed(normalise="whiten", keep_mean=True).score_B, white + plain.mean(), rtol=1e-6)


def test_running_moments_are_those_of_all_numbers_so_far() -> None:
    rounds = np.random.default_rng(0).normal(3.0, 2.0, (5, 4)).astype(np.float32)
    moments = Moments()
    for score_B in rounds:
        found = composed({"grade": score_B}, moments, normalise="running")
        moments = Moments(**json.loads(json.dumps(asdict(found.moments))))  # as a checkpoint keeps them
        assert moments == found.moments
    everything = rounds.astype(np.float64)
    assert moments.count == 20
    white = (everything[-1] - everything.mean()) / np.sqrt(everything.var() + 1e-8)
    np.testing.assert_allclose(found.score_B, white, rtol=1e-6)
    kept = compose(
        {"grade": rounds[0]},
        ENDED,
        RewardsConfig(parts={"grade": GRADE}, normalise="running", keep_mean=True),
        Moments(),
    )
    assert np.mean(kept.score_B) == pytest.approx(rounds[0].mean(), rel=1e-5)


def test_the_rules_apply_in_order() -> None:
    """Normalised, then clipped, then the cost of length, then the missing end in place of all."""
    found = composed(
        parts={"grade": GRADE, "length": LengthPenaltyConfig(weight=1.0)},
        normalise="whiten",
        clip=1.0,
        missing_end="replace",
        missing_end_value=-7.0,
    )
    plain = SCORE.astype(np.float64)
    white = np.clip((plain - plain.mean()) / np.sqrt(plain.var() + 1e-8), -1, 1)
    np.testing.assert_allclose(found.score_B, [white[0] - 3, white[1] - 5, -7.0, white[3] - 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_integers_are_refused_by_name(dtype: Any) -> None:
    with pytest.raises(UserError, match=r"part grade gave (int|bool).*fractions"):
        composed({"grade": np.ones(4, dtype)})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_the_row_of_a_wrong_number_is_named(wrong: float) -> None:
    score_B = np.asarray([0.5, 1.5, wrong])
    with pytest.raises(UserError, match=r"part judge gave (nan|-?inf) for row 2 of 3 \(prompts.jsonl:7\)"):
        checked("judge", score_B, ["prompts.jsonl:5", "prompts.jsonl:6", "prompts.jsonl:7"])
    with pytest.raises(UserError, match="part grade gave .* for row 2 of 4"):
        composed({"grade": np.append(score_B, 0.0)})


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
def test_a_wrong_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="part grade gave numbers of shape .* for 4 answers"):
        composed({"grade": np.zeros(shape, np.float32)})


def test_the_scale_of_a_reward_model() -> None:
    raw, scale = np.asarray([1.0, 3.0], np.float32), ScoreScale(bias=-2.0, mean=2.0, std=4.0)
    np.testing.assert_array_equal(scaled(raw, scale, "raw"), [1, 3])
    np.testing.assert_array_equal(scaled(raw, scale, "centred"), [-1, 1])
    standardised = scaled(raw, scale, "standardised")
    np.testing.assert_array_equal(standardised, [-0.25, 0.25])
    assert standardised.dtype == np.float32
