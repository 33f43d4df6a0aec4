"""What stages did, whether it is enough, and the report."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from jaxrl_llm.cli import main
from jaxrl_llm.pipeline import plan
from jaxrl_llm.pipeline.figures import figures_of, summary
from jaxrl_llm.pipeline.stage import Stage
from tests.pipeline.stubs import PIPELINE, judged, leaves, log, trained

EXPECT = PIPELINE.replace("    verb: train\n", "    verb: train\n    expect: {accuracy: {rise: 0.3, least: 0.4}}\n", 1)


def stage(verb: str, report: dict) -> Stage:
    directory = Path("s")
    directory.mkdir()
    (directory / "report.json").write_text(json.dumps(report))
    return Stage("s", verb, directory, [], {}, frozenset(), (), "p.yaml:1")


def report() -> dict:
    return json.loads(Path("runs/p/report.json").read_text())


def test_accuracy_is_the_tasks_and_loss_the_texts(here: Path) -> None:
    found = figures_of(stage("train", trained((0.0, 0.462))))
    assert found.before == {"accuracy": 0.0, "accuracy_low": -0.04, "accuracy_high": 0.04, "loss": 0.7}
    assert (found.after["accuracy"], found.after["loss"]) == (0.462, 0.06)
    assert found.sets["validation"]["after"] == {"loss": 0.06, "perplexity": 1.06}
    assert summary(found.before, found.after) == "accuracy 0.0 -> 46.2 %  loss 0.700 -> 0.060"


def test_a_reward_model_has_accuracy_and_margin_of_pairs(here: Path) -> None:
    found = figures_of(stage("train", judged((0.5, 0.93))))
    assert (found.before["accuracy"], found.after["accuracy"], found.after["margin"]) == (0.5, 0.93, 1.5)


def test_a_policy_with_a_task_and_pairs_has_the_accuracy_of_the_task(here: Path) -> None:
    both = judged((0.5, 0.93))
    both["evals"] |= {"sums": trained((0.1, 0.2))["evals"]["arithmetic"]}
    both["learnt"] = {"first": {"score": 0.1, "kl": 0.0}, "last": {"score": 0.6, "kl": 2.5, "ended": 1.0}}
    found = figures_of(stage("train", both))
    assert (found.before["accuracy"], found.after["accuracy"]) == (0.1, 0.2)
    assert {name: found.after[name] for name in ("margin", "score", "kl")} == {"margin": 1.5, "score": 0.6, "kl": 2.5}
    assert "ended" not in found.after


@pytest.mark.parametrize(
    ("report_", "before", "after"),
    [
        ({"suite": "task", "greedy": {"accuracy": 0.5, "interval": [0.4, 0.6]}, "before": None}, None, 0.5),
        ({"suite": "task", "greedy": {"accuracy": 0.5}, "before": {"model": "m", "accuracy": 0.2}}, 0.2, 0.5),
        ({"suite": "rewardbench", "subsets": {}, "sections": {"Chat": {"accuracy": 0.7}}, "overall": None}, None, 0.7),
        ({"suite": "rewardbench", "subsets": {}, "sections": {}, "overall": {"accuracy": 0.6}}, None, 0.6),
    ],
)
def test_evaluations(here: Path, report_: dict, before: float | None, after: float) -> None:
    found = figures_of(stage("evaluate", report_))
    assert (found.before.get("accuracy"), found.after["accuracy"]) == (before, after)
    assert found.after.get("accuracy_low") == (0.4 if "interval" in report_.get("greedy", {}) else None)


def test_an_evaluation_of_texts_and_rejection_sampling(here: Path) -> None:
    found = figures_of(stage("evaluate", {"suite": "perplexity", "domains": {"a": {"loss": 1.0}, "b": {"loss": 2.0}}}))
    assert (found.after, found.sets["b"]["after"]) == ({"loss": 1.0}, {"loss": 2.0})
    Path("s").rename("t")
    both = {"kind": "reject", "before": {"accuracy": 0.4, "score": -1.0}, "after": {"accuracy": 0.6, "score": 1.0}}
    found = figures_of(stage("reject", both))
    assert summary(found.before, found.after) == "accuracy 40.0 -> 60.0 %  reward -1.000 -> 1.000"


def test_the_report(here: Path) -> None:
    leaves("pretrain", trained((0.0, 0.462)))
    leaves("again", judged((0.5, 0.93)))
    Path("p.yaml").write_text(EXPECT.replace("    verb: train\n", "    verb: train\n    description: a base\n", 1))
    assert main(["run", "p.yaml"]) == 0
    found = report()
    assert found["done"]
    assert found["problem"] is None
    pretrain = found["stages"]["pretrain"]
    assert (pretrain["verb"], pretrain["kind"], pretrain["directory"]) == ("train", "pretrain", "runs/p/pretrain")
    assert (pretrain["before"]["accuracy"], pretrain["after"]["accuracy"]) == (0.0, 0.462)
    assert set(pretrain["sets"]) == {"validation", "arithmetic"}
    assert found["stages"]["corpus"]["before"] is None
    page = Path("runs/p/report.md").read_text()
    for text in (
        "3 of 3 stages done",
        "![Accuracy through the stages](plots/stages.png)",
        "| stage | what | time | accuracy, % | 95 % interval | margin | loss |",
        "| [pretrain](pretrain/report.md) | train pretrain | 0:00:00 | 0.0 → 46.2 | 42.2 – 50.2 | – | 0.700 → 0.060 |",
        "| corpus | data corpus |",
        "- pretrain: a base",
        "| pretrain | accuracy | rise 0.3, least 0.4 | yes |",
        "| pretrain | `arithmetic` | 0.0 → 46.2 |",
        "```bash\njaxrl-llm generate runs/p/again\n```",
    ):
        assert text in page
    pixels = imread("runs/p/plots/stages.png")
    assert pixels.shape[0] > 400
    assert pixels.std() > 0.05

    Path("runs/p/report.json").unlink()
    assert main(["run", "p.yaml"]) == 0  # all skipped
    assert report()["stages"] == found["stages"]


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (0.2, 0.45, "accuracy went from 0.2 to 0.45, and was to rise by 0.3 (it did by +0.25)\n  mend: "),
        (0.0, 0.35, "accuracy went from 0 to 0.35, and was to be at least 0.4\n  mend: runs/p/pretrain/report.md says"),
        (None, 0.9, "accuracy is 0.9, and was to rise by 0.3, and it is not known what it was before"),
    ],
)
def test_an_expectation_that_does_not_hold_stops_the_pipeline(
    here: Path, capsys: pytest.CaptureFixture[str], before: float | None, after: float, fault: str
) -> None:
    leaves("pretrain", trained((before, after)))
    Path("p.yaml").write_text(EXPECT)
    for expected_commands in (2, 0):  # when it ends, and when it is skipped
        assert main(["run", "p.yaml"]) == 2
        assert len(log()) == expected_commands
        error = capsys.readouterr().err
        assert f"error: stage pretrain: {fault}" in error
        assert "--redo pretrain, or expect otherwise at p.yaml:8" in error
        found = report()
        assert fault.partition("\n")[0] in found["problem"]
        assert not found["done"]
        assert "| pretrain | accuracy | rise 0.3, least 0.4 | no |" in Path("runs/p/report.md").read_text()
    Path("p.yaml").write_text(PIPELINE)
    assert main(["run", "p.yaml"]) == 0


def test_an_expectation_of_what_is_not_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaves("pretrain", trained((0.0, 0.5)))
    Path("p.yaml").write_text(EXPECT.replace("accuracy:", "acuracy:"))
    assert main(["run", "p.yaml"]) == 2
    error = capsys.readouterr().err
    assert "acuracy is expected, and is no figure of this stage, did you mean 'accuracy'?" in error
    Path("p.yaml").write_text(EXPECT.replace("accuracy:", "reward:"))
    assert main(["run", "p.yaml"]) == 2
    assert "no figure of this stage; there is: loss, accuracy, accuracy_low" in capsys.readouterr().err


def test_the_report_of_a_pipeline_that_failed(here: Path) -> None:
    leaves("pretrain", trained((0.0, 0.5)))
    Path("fail").write_text("runs/p/again ")
    assert main(["run", "p.yaml"]) == 7
    page = Path("runs/p/report.md").read_text()
    assert "2 of 3 stages done" in page
    assert "**It did not come to its end.**\n\n```text\nstage again failed with exit code 7\n```" in page
    assert "| again | train pretrain | to run |" in page
    assert "## Next" not in page
    assert [each["state"] for each in report()["stages"].values()] == ["done", "done", "to run"]


def test_a_stage_that_was_finished_by_hand_is_not_trusted(here: Path) -> None:
    Path("runs/p/corpus").mkdir(parents=True)
    Path("runs/p/corpus/.done.json").write_text('{"digest": "x", "inputs": []}')
    assert plan("p.yaml").stages[0].done() is None
