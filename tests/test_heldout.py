"""What evaluation during training says of held-out answers, against the same from the answers one by one."""

import json
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.saved import open_model
from tests.launcher import rows
from tests.tiny import RATINGS, Runs, answer_scores

BETA = 0.1


def held_out_rows(runs: Runs, name: str) -> list[dict[str, Any]]:
    """The last quarter of the file."""
    examples = [json.loads(line) for line in (runs.folder / f"{name}.jsonl").read_text().splitlines()]
    return examples[-len(examples) // 4 :]


def scores_of_pairs(runs: Runs, name: str) -> np.ndarray:
    """[E, 2]: of chosen and rejected, by the run's last checkpoint."""
    opened = open_model(runs(name), head=None)
    store = runs.opened(name).data.held_out.groups["validation"]
    scores = answer_scores(opened.model, opened.params, store)
    if opened.head == "lm":
        base = open_model(runs("sft"))
        scores = BETA * (scores - answer_scores(base.model, base.params, store))
    return scores.reshape(-1, 2)


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_accuracy_by_rating_and_subset(runs: Runs, name: str) -> None:
    score_E2, examples = scores_of_pairs(runs, name), held_out_rows(runs, "pairs")
    lead_E = score_E2[:, 0] - score_E2[:, 1]
    right_E = np.where(lead_E == 0, 0.5, lead_E > 0)
    details = json.loads((runs(name) / "details.json").read_text())
    assert details["step"] == 4
    found, (row,) = details["sets"]["validation"], rows(runs(name), "validation")
    assert (row["pairs"], row["ties"]) == (len(examples), 0)
    assert row["accuracy"] == pytest.approx(right_E.mean())
    assert 0 < right_E.mean() < 1  # else this would show little
    for key, names in {"rating": RATINGS[::-1], "subset": ("sea", "land", "air")}.items():
        groups = found[f"by_{key}"]
        assert len(groups) == len(names)
        for number, label in enumerate(names):
            of = [i for i, example in enumerate(examples) if example[key] == label]
            figures = groups[label if key == "subset" else str(number)]
            assert figures["pairs"] == len(of) > 0
            assert figures["accuracy"] == pytest.approx(right_E[of].mean())
            assert figures["lead"] == pytest.approx(lead_E[of].mean(), abs=1e-5)
    if name == "dpo":
        assert row["loss"] == pytest.approx(np.logaddexp(0, -lead_E).mean(), abs=1e-5)
        assert row["rewards/margins"] == pytest.approx(lead_E.mean(), abs=1e-5)


def test_a_ranking_counts_as_one_prompt(runs: Runs) -> None:
    opened = open_model(runs("ranked"), head="scalar")
    store = runs.opened("ranked").data.held_out.groups["validation"]
    scores = answer_scores(opened.model, opened.params, store)
    losses = []
    for first, last in zip(store.answer_starts, store.answer_starts[1:], strict=False):
        score, rank = scores[first:last], store.ranks[first:last]
        better, worse = np.nonzero(rank[:, None] < rank[None, :])
        losses.append(np.logaddexp(0, score[worse] - score[better]).mean())
    (row,) = rows(runs("ranked"), "validation")
    assert row["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert row["pairs"] > len(losses)


def test_before_the_first_step_nothing_tells_answers_apart(runs: Runs) -> None:
    figures = runs.opened("dpo").evaluate()["validation"]
    assert figures["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert figures["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert {"by_rating", "by_subset", "calibration"} <= figures["details"].keys()


def test_answers_judged_one_by_one_stand_against_zero(runs: Runs) -> None:
    opened = open_model(runs("pointwise"), head="scalar")
    store = runs.opened("pointwise").data.held_out.groups["validation"]
    scores = answer_scores(opened.model, opened.params, store)
    signed = np.where(store.label == 1, scores, -scores)
    (row,) = rows(runs("pointwise"), "validation")
    assert row["loss"] == pytest.approx(np.logaddexp(0, -signed).mean(), abs=1e-5)
    assert row["accuracy"] == pytest.approx((signed > 0).mean())
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    found = json.loads((runs("pointwise") / "details.json").read_text())["sets"]["validation"]
    assert sum(each["pairs"] for each in found["calibration"]["bins"]) == len(scores)
