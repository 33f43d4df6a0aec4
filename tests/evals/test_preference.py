"""Accuracy, intervals and calibration of scored pairs, by hand and by simulation."""

import math

import numpy as np
import pytest

from jaxrl_llm.evals.preference import calibration, compare, weighted_mean, wilson


def test_figures_by_hand() -> None:
    found = compare(
        np.float32([2.0, 1.0, 0.0, 9.0]),
        np.float32([1.0, 1.0, 3.0, 0.0]),
        weight_P=np.float32([1.0, 0.5, 0.5, 0.0]),  # the last place is empty
        rating_P=np.array([3, 3, 0, 3]),
        margin_P=np.float32([1.0, 0.0, math.nan, 1.0]),
        subset_P=["a", None, "b", "c"],
    )
    assert found["accuracy"] == pytest.approx((1 * 1 + 0.5 * 0.5 + 0) / 2)
    assert (found["pairs"], found["ties"]) == (3, 1)
    assert found["lead"] == pytest.approx((1 + 0 - 1.5) / 2)
    loss = (math.log(1 + math.exp(-1)) + 0.5 * math.log(2) + 0.5 * math.log(1 + math.exp(3))) / 2
    assert found["loss"] == pytest.approx(loss)
    assert found["interval"] == wilson(0.625, 2.0)  # two prompts, not three pairs
    assert {name: each["accuracy"] for name, each in found["by_rating"].items()} == {"0": 0, "3": 1.25 / 1.5}
    assert {name: each["pairs"] for name, each in found["by_margin"].items()} == {"1": 1}
    assert {name: each["pairs"] for name, each in found["by_subset"].items()} == {"a": 1, "b": 1}


def test_many_margins_become_quarters() -> None:
    margin_P = np.linspace(0.1, 1, 40)
    found = compare(margin_P, np.zeros(40), margin_P=margin_P)["by_margin"]
    assert [each["pairs"] for each in found.values()] == [10] * 4
    assert next(iter(found)) == "0.1 to 0.325"


def test_no_pairs_are_no_figures() -> None:
    found = compare(np.zeros(2), np.zeros(2), weight_P=np.zeros(2), subset_P=["a", "b"])
    assert math.isnan(found["accuracy"])
    assert (found["pairs"], found["interval"], found["by_subset"]) == (0, (0.0, 1.0), {})


def test_wilson_against_published_numbers() -> None:
    """15 of 148 and 81 of 263, the examples of Newcombe (1998): 0.0624 - 0.1605 and 0.2553 - 0.3662."""
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_interval_of_a_weighted_mean_holds_the_truth_19_times_of_20() -> None:
    rng, truth, sizes, weights = np.random.default_rng(0), (0.9, 0.6, 0.3), (40, 90, 25), (1, 3, 2)
    inside = 0
    for _ in range(1000):
        rates = [rng.binomial(n, p) / n for n, p in zip(sizes, truth, strict=True)]
        parts = [(w, r, wilson(r, n)) for w, r, n in zip(weights, rates, sizes, strict=True)]
        low, high = weighted_mean(parts)[1]
        inside += low <= (0.9 + 1.8 + 0.6) / 6 <= high
    assert 930 <= inside <= 975
    assert weighted_mean([(7, 0.25, (0.1, 0.4))])[1] == pytest.approx((0.1, 0.4))


def test_calibration_of_honest_and_of_boastful_scores() -> None:
    rng = np.random.default_rng(0)
    logit_P = rng.normal(0, 2, 20_000)
    right_P = rng.random(20_000) < 1 / (1 + np.exp(-np.abs(logit_P)))
    lead_P = np.where(right_P, 1, -1) * np.abs(logit_P)
    honest, boastful = (calibration(scale * lead_P, np.zeros(20_000)) for scale in (1, 3))
    assert honest["error"] < 0.015
    assert boastful["error"] > 0.1
    assert sum(each["pairs"] for each in honest["bins"]) == 20_000
    assert all(each["low"] <= each["predicted"] <= each["high"] for each in honest["bins"])
    assert boastful["bins"][-1]["observed"] < boastful["bins"][-1]["interval"][1] < boastful["bins"][-1]["predicted"]


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.0, math.log(3)]), np.array([math.log(3), 0.0]), weight_P=np.array([1.0, 3.0]))
    [only] = found["bins"]
    assert (only["low"], only["high"]) == (0.75, 0.8)
    assert only["predicted"] == pytest.approx(0.75)
    assert only["observed"] == pytest.approx(0.75)
    assert found["error"] == pytest.approx(0)


def test_quarters_that_look_alike_are_one() -> None:
    margin_P = np.linspace(1000.1, 1000.6, 10)
    found = compare(margin_P, np.zeros(10), margin_P=margin_P)["by_margin"]
    assert sum(each["pairs"] for each in found.values()) == 10
