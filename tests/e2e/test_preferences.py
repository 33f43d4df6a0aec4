"""The life of a model after pretraining: SFT, reward models, DPO and its kin, each from the run before."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.data.chat import with_bos
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.training.checkpoint import Checkpoints
from tests.launcher import rows
from tests.tiny import N, Runs, column, train

OF_DPO = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
OF_DPO |= {"logps/chosen", "logps/rejected"}
METRICS: dict[str, set[str]] = {
    "sft": {"nll", "trained_fraction"},
    "reward": {"accuracy", "margin", "margin_given", "score_mean", "safety_accuracy"},
    "ranked": {"accuracy", "margin", "score_mean"},
    "pointwise": {"accuracy", "score_wanted", "score_unwanted", "score_mean"},
    "dpo": OF_DPO,
    "kto": OF_DPO - {"rewards/margins"} | {"kl"},
    "simpo": OF_DPO,
    "orpo": OF_DPO,
}
TOLD = {"sft": "perplexity", "kto": "rewards/accuracies", "pointwise": "accuracy"}  # of the held-out set


@pytest.mark.parametrize("name", METRICS)
def test_every_stage_trains_logs_and_evaluates(runs: Runs, name: str) -> None:
    run = runs(name)
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert METRICS[name] <= found[0].keys()
    (held_out,) = rows(run, "validation")
    assert held_out["step"] == 4
    assert math.isfinite(held_out[TOLD.get(name, "accuracy")])


def test_before_the_first_step_the_policy_is_its_reference(runs: Runs) -> None:
    for name in ("dpo", "dpo_cached"):
        assert column(runs(name))[0] == pytest.approx(math.log(2), abs=1e-6)
        assert column(runs(name), "rewards/margins")[0] == pytest.approx(0, abs=1e-5)
    assert column(runs("kto"))[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_cached_reference_is_the_reference(runs: Runs, name: str) -> None:
    for split in ("train", "validation"):
        np.testing.assert_allclose(
            column(runs(f"{name}_cached"), split=split), column(runs(name), split=split), atol=1e-5
        )


def test_a_cached_reference_is_computed_once_for_each_reference(runs: Runs, tmp_path: Path) -> None:
    opened = runs.opened("kto_cached")
    files = sorted(opened.data.stores["data"].path.glob("reference-*"))
    before = [file.stat().st_mtime_ns for file in files]
    assert [file.stem.endswith("-mismatched") for file in files] in ([False, True], [True, False])
    runs.opened("kto_cached")
    assert [file.stat().st_mtime_ns for file in files] == before
    runs.opened("kto_cached", f"init_from={runs('dpo')}")
    assert len(list(opened.data.stores["data"].path.glob("reference-*"))) == 4


def test_a_policy_writes_and_a_reward_model_does_not(runs: Runs, tmp_path: Path) -> None:
    done = train(runs.config("dpo", tmp_path / "dpo.yaml"), sample=True)
    (sample,) = (json.loads(line) for line in (done / "samples.jsonl").read_text().splitlines())
    assert sample["prompt"]
    assert (done / "report.md").is_file()
    done = train(runs.config("reward", tmp_path / "reward.yaml"), sample=True)
    assert not (done / "samples.jsonl").exists()
    assert json.loads((done / "report.json").read_text())["evals"].keys() == {"validation"}


def exported(run: Path, out: Path) -> dict[str, Any]:
    assert main(["export", str(run), str(out)]) == 0
    return json.loads((out / "config.json").read_text())


def test_a_reward_model_keeps_how_its_scores_lie(runs: Runs, tmp_path: Path) -> None:
    run = runs("ranked")
    card = find_model(run).card
    assert card.score is not None
    assert card.score.std > 1e-3
    assert Checkpoints(run, None).run_json(2)["score"] != Checkpoints(run, None).run_json(4)["score"]
    config = exported(run, tmp_path / "out")
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    again = open_model(tmp_path / "out", head=None)
    assert again.card.score == card.score
    ours = open_model(run, head="scalar")
    row = np.asarray([ours.tokenizer.encode_document("oak bay?")])
    scores = [each.model.score(each.params, row, np.asarray([row.shape[1]])) for each in (ours, again)]
    assert scores[0].dtype == np.float32
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_policy_is_exported_with_the_template_that_it_learnt(runs: Runs, tmp_path: Path) -> None:
    exported(runs("dpo"), tmp_path / "out")
    again, ours = open_model(tmp_path / "out"), open_model(runs("dpo"))
    assert ours.card.template is not None
    assert again.tokenizer.chat_template == with_bos(ours.tokenizer, ours.card.template) != ours.card.template
    row = np.asarray([ours.tokenizer.encode_document("oak bay?")])
    logits = [each.model.logits(each.params, row) for each in (ours, again)]
    np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(("name", "micro_batches"), [("sft", 4), ("ranked", 2), ("ranked", 4), ("dpo", 4)])
def test_micro_batches_cut_the_same_batch(runs: Runs, name: str, micro_batches: int) -> None:
    whole, (cut,) = rows(runs(name))[0], runs.opened(name, f"training.micro_batches={micro_batches}").steps(1)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("name", ["ranked", "dpo"])
def test_a_shared_prompt_is_as_good_as_ones_own(runs: Runs, name: str) -> None:
    shared, own = rows(runs(name)), runs.opened(name, "data.share_prompt=false")
    assert shared[0]["tokens"] < own.data.source.tokens_per_step
    for a, b in zip(shared, own.steps(2), strict=False):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)


def test_packed_conversations_lose_what_they_lose_alone(runs: Runs) -> None:
    """The held-out loss: of the same conversations, twelve rows of one instead of fewer of several."""
    packed, alone = (runs.opened("sft", f"data.packing={packing}") for packing in ("first_fit", "none"))
    assert len(packed.data.held_out.rows["validation"]) < len(alone.data.held_out.rows["validation"]) == N // 4
    first, second = (each.evaluate()["validation"] for each in (packed, alone))
    assert first["tokens"] == second["tokens"]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)


@pytest.mark.parametrize(("name", "mesh"), [("sft", "fsdp=8"), ("reward", "data=8"), ("dpo", "fsdp=8")])
def test_eight_devices_train_what_one_trains(runs: Runs, name: str, mesh: str) -> None:
    for a, b in zip(rows(runs(name)), runs.opened(name, f"mesh.{mesh}", devices=8).steps(3), strict=False):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
