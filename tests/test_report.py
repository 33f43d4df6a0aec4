"""A report from run directories made by hand: figures, tables, plots, and runs that went wrong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from jaxrl_llm.errors import UserError
from jaxrl_llm.plots.look import smooth, spread
from jaxrl_llm.plots.training import loss
from jaxrl_llm.report import write_report

Row = dict[str, Any]


def run_directory(path: Path, rows: list[Row], samples: list[Row] | None = None, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if samples:
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def train(step: int, loss: float | None = 2.0, **more: Any) -> Row:
    rates = {"tokens_per_s": 1000.0, "tflops": 0.5, "step_ms": 20.0, "data_wait_ms": 0.25}
    return {"step": step, "split": "train", "loss": loss, "lr": 1e-3, "tokens": 10 * step, **rates, **more}


def score(step: int, split: str, loss: float | None, bits: float | None = None) -> Row:
    return {"step": step, "split": split, "loss": loss, "perplexity": loss and math.exp(loss), "bits_per_byte": bits}


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def continual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A continual pretraining of 400 steps: the old domain forgets, the new one learns."""
    rows = [train(step, 4.0 - step / 200) for step in range(10, 401, 10)]
    rows[0] = {k: v for k, v in rows[0].items() if k not in ("tokens_per_s", "tflops", "step_ms", "data_wait_ms")}
    for step, old, new in ((0, 2.17, 2.9), (200, 2.4, 1.2), (400, 2.46, 1.3)):
        rows += [score(step, "old", old, old / 2), score(step, "new", new, new / 2)]
    samples = [{"step": 400, "prompt": "Es war", "completion": "\n```einmal``` <b>\x1b[31m"}]
    config = (
        "algo: {kind: pretrain}\nmodel: {preset: de|bug}\ndata: {mix: {old: {path: a, weight: 0.05}, new: {path: b}}}"
    )
    facts = json.dumps({"parameters": 804_096, "devices": "8 x cpu"})
    path = tmp_path_factory.mktemp("runs") / "ger|man run"
    write_report(run_directory(path, rows, samples, config_yaml=config, facts_json=facts))
    return path


def test_figures_of_the_report(continual: Path) -> None:
    figures = strict_json(continual / "report.json")
    assert figures["evals"]["old"]["before"]["loss"] == 2.17
    assert figures["evals"]["old"]["last"]["loss"] == 2.46
    assert figures["evals"]["new"]["best"] == {
        "step": 200,
        "loss": 1.2,
        "perplexity": math.exp(1.2),
        "bits_per_byte": 0.6,
    }
    assert figures["train"]["seconds"] == pytest.approx(400 * 0.020)  # the first row, without a time, counts as typical
    assert figures["train"]["median_tokens_per_s"] == 1000.0
    assert figures["config"] == {
        "algo.kind": "pretrain",
        "model.preset": "de|bug",
        "data.mix": {"old": 0.05, "new": 1.0},
    }


def test_the_page_says_the_same(continual: Path) -> None:
    page = (continual / "report.md").read_text()
    assert (
        "**pretrain** of a model of 804k parameters: 400 steps, 4.00k tokens, 0:00:08 of training on 8 x cpu." in page
    )
    assert "| old | 2.1700 | 2.4600 | +0.2900 | 1.0850 | 1.2300 | +0.1450 |" in page
    assert "| new | 2.9000 | 1.3000 | −1.6000 | 1.4500 | 0.6500 | −0.8000 |" in page
    assert "| new | 400 | 1.3000 | 3.67 | 0.6500 | 1.2000 at 200 |" in page
    assert "| model.preset | `de\\|bug` |" in page
    assert "````text\nEs war\n```einmal``` <b>\\x1b[31m\n````" in page
    assert f"jaxrl-llm generate '{continual}' --prompt 'Es war'" in page


def test_plots_are_embedded_and_drawn(continual: Path) -> None:
    page = (continual / "report.md").read_text()
    names = {"loss.png", "domains.png", "learning_rate.png", "throughput.png"}
    assert {path.name for path in (continual / "plots").iterdir()} == names
    for name in names:
        assert f"plots/{name}" in page
        pixels = imread(continual / "plots" / name)
        assert pixels.shape[0] > 400
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20  # something is drawn


def test_a_report_can_be_written_again(continual: Path) -> None:
    first = (continual / "report.json").read_text()
    write_report(continual)
    assert (continual / "report.json").read_text() == first


@pytest.mark.parametrize(
    ("rows", "says", "plots"),
    [
        ([], "No training step was logged", set()),
        (
            [{"step": 1, "split": "train", "loss": 5.5, "lr": 1e-4}],
            "training 5.5000",
            {"loss.png", "learning_rate.png"},
        ),
        ([score(0, "validation", 2.0)], "No training step was logged", {"loss.png"}),
        (
            [{"step": 3, "split": "train", "loss": None, "lr": math.nan}, score(3, "validation", None)],
            "training not finite",
            set(),
        ),
    ],
    ids=["nothing", "one row", "one evaluation", "diverged"],
)
def test_short_and_broken_runs(tmp_path: Path, rows: list[Row], says: str, plots: set[str]) -> None:
    page = write_report(run_directory(tmp_path, rows)).read_text()
    assert says in page
    assert {path.name for path in (tmp_path / "plots").iterdir()} == plots
    assert "before" not in page
    strict_json(tmp_path / "report.json")


def of_pairs(step: int, split: str, loss: float, accuracy: float, **more: float) -> Row:
    bounds = {"accuracy_low": accuracy - 0.07, "accuracy_high": accuracy + 0.07}
    return {"step": step, "split": split, "loss": loss, "accuracy": accuracy, **bounds, "pairs": 200.0, **more}


def part(accuracy: float, pairs: int = 50) -> Row:
    interval = [accuracy - 0.1, accuracy + 0.1]
    return {"accuracy": accuracy, "interval": interval, "loss": 0.6, "lead": -0.25, "pairs": pairs, "ties": 1}


COUNTS = {"read": 1800, "invalid": 2, "empty": 4, "untrained": 0, "identical": 0, "overlong": 0, "tied": 0}
COUNTS |= {"left_out": 1, "cut": 1168, "tokens": 1000, "trained": 569}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DPO on pairs that come from two subsets and are rated, with adapters and skipped rows."""
    dpo = {"rewards/chosen": 0.1, "rewards/rejected": -0.2, "rewards/margins": 0.3}
    rows = [train(step, 0.7 - step / 1000, **dpo, **{"rewards/accuracies": 0.5 + step / 400}) for step in (50, 100)]
    rows += [of_pairs(step, "validation", 0.7, 0.455 + step / 1000, **dpo, ties=3.0) for step in (0, 100)]
    bins = [{"low": 0.5, "high": 0.55, "predicted": 0.52, "observed": 0.6, "interval": [0.4, 0.8], "pairs": 9}]
    sets = {
        "calibration": {"bins": bins, "error": 0.08},
        "by_rating": {"0": part(0.5), "3": part(0.75)},
        "by_margin": {"0.5": part(0.55)},
        "by_subset": {"har|mless": part(0.625, 1200)},
    }
    facts = {"parameters": 260_096, "trained parameters": 12_345, "rows": {"data": {"used": 1793, **COUNTS}}}
    path = run_directory(
        tmp_path_factory.mktemp("runs") / "dpo",
        rows,
        config_yaml="algo: {kind: dpo, loss: dpo, beta: 0.1}\ntrainable: {kind: lora, rank: 8}",
        facts_json=json.dumps(facts),
        details_json=json.dumps({"step": 100, "sets": {"validation": sets}}),
        quarantine_jsonl='{"error": "a", "row": {}}\n{"error": "b", "row": {}}\n',
    )
    write_report(path)
    return path


def test_a_run_on_preferences_begins_with_its_accuracy(judge: Path) -> None:
    page = (judge / "report.md").read_text()
    assert "**dpo** of a model of 260k parameters, 12.3k trained: 100 steps" in page
    assert "validation **55.5 %** (45.5 % before), 95 % interval 48.5 – 62.5, 200 pairs." in page
    assert "Loss at the end: training 0.6000, validation **0.7000** (0.7000 before) per pair." in page
    assert "nats per token" not in page
    assert "| set | step | loss | accuracy, % | 95 % interval | pairs | ties | reward of chosen | of rejected |" in page
    assert "| validation | 100 | 0.7000 | 55.5 | 48.5 – 62.5 | 200 | 3 | 0.100 | −0.200 | 0.300 | 0.7000 at 0 |" in page
    assert "| 45.5 | 55.5 | +10.0 |" in page


def test_accuracy_is_taken_apart(judge: Path) -> None:
    page = (judge / "report.md").read_text()
    assert "## Accuracy by subset\n" in page
    assert "| har\\|mless | 1,200 | 62.5 | 52.5 – 72.5 | −0.250 | 1 |" in page
    assert page.index("| significantly better | 50 | 75.0") < page.index("| negligibly better | 50 | 50.0")
    assert "| 0.5 | 50 | 55.0 |" in page
    assert "plots/calibration_1.png" in page
    assert {"accuracy.png", "rewards.png", "calibration_1.png", "loss.png"} <= {
        path.name for path in (judge / "plots").iterdir()
    }


def test_what_became_of_the_rows(judge: Path) -> None:
    page = (judge / "report.md").read_text()
    losses = "2 of the wrong form, 4 have an empty answer, 1 further answer(s) empty or repeated"
    assert f"| data | 1,800 | 1,793 | 1,168 | 1,000 | 56.9 % | {losses} |" in page
    assert "The rows of the wrong form (2) are in [quarantine.jsonl](quarantine.jsonl)." in page
    assert "| trained parameters | 12,345 |" in page
    assert "| trainable.rank | `8` |" in page


def test_the_figures_of_preferences_are_in_the_json(judge: Path) -> None:
    figures = strict_json(judge / "report.json")
    found = figures["evals"]["validation"]
    assert (found["before"]["accuracy"], found["last"]["accuracy"]) == pytest.approx((0.455, 0.555))
    assert (found["last"]["margin"], found["last"]["rewards/margins"]) == (0.3, 0.3)  # by both names
    assert found["details"]["by_rating"]["3"]["accuracy"] == 0.75
    assert figures["quarantined"] == 2


def test_details_of_another_evaluation_are_left_out(judge: Path, tmp_path: Path) -> None:
    rows = [of_pairs(step, "validation", 0.7, 0.5) for step in (100, 150)]
    details = (judge / "details.json").read_text()
    page = write_report(run_directory(tmp_path / "run", rows, details_json=details)).read_text()
    assert "Accuracy by" not in page
    assert "Calibration" not in page


@pytest.mark.parametrize(
    ("kind", "unit", "said", "unsaid"),
    [
        ("sft", " nats per token.", ["chat", "train reward/CONFIG init_from=", "train dpo/CONFIG"], ["evaluate"]),
        ("reward", " per pair.", ["evaluate", "--suite rewardbench", "export"], ["chat", "generate"]),
        ("kto", " per answer.", ["evaluate", "chat", "export"], ["train reward"]),
        ("orpo", ".", ["chat"], ["generate"]),
        ("pretrain", " nats per token.", ["generate", "train OTHER.yaml"], ["chat", "evaluate"]),
    ],
)
def test_what_comes_next_fits_the_stage(tmp_path: Path, kind: str, unit: str, said: list, unsaid: list) -> None:
    config = f"algo: {{kind: {kind}}}"
    rows = [train(1, 1.0, trained_fraction=0.25), train(2, 1.0, trained_fraction=0.5), score(2, "validation", 1.0)]
    page = write_report(
        run_directory(tmp_path / "run", rows[: None if kind == "sft" else 2], config_yaml=config)
    ).read_text()
    summary, _, commands = page.partition("## Next")
    assert f"training 1.0000{unit}" in summary.replace(", validation **1.0000**", "")
    assert "trained on | 37.5 %" in summary
    for text in said:
        assert f"jaxrl-llm {text}" in commands or text in commands
    for text in unsaid:
        assert text not in commands


def test_no_run_directory_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_smoothing_keeps_level_and_slope_and_removes_noise() -> None:
    steps = np.arange(2000.0)
    _, level = smooth((steps, np.full(2000, 3.0)))
    np.testing.assert_allclose(level, 3.0)
    at, line = smooth((steps, 2 * steps))
    inner = slice(40, -40)
    np.testing.assert_allclose(line[inner], 2 * at[inner], atol=2.0)
    _, noise = smooth((steps, np.random.default_rng(0).normal(size=2000)))
    assert noise[40:].std() < 0.2
    start, fall = smooth((steps, 10 * np.exp(-steps / 20)))
    assert abs(np.interp(20, start, fall) - 10 / math.e) < 0.3  # not blurred away


def test_labels_are_spread_in_order() -> None:
    placed = spread([1.0, 1.01, 5.0, 0.99], 0.2)
    assert placed[2] == 5.0
    assert np.diff([placed[3], placed[0], placed[1]]) == pytest.approx([0.2, 0.2], abs=1e-3)
    assert np.mean([placed[3], placed[0], placed[1]]) == pytest.approx(1.0)


def test_the_axis_ends_below_a_steep_start_and_says_so() -> None:
    steps = np.arange(0.0, 1001, 10)
    figure = loss({"loss": (steps, 1.5 + 4 * np.exp(-steps / 10))}, {}, "nats per token")
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_ylim()[1] < 3
    assert "from 5.50" in axes.get_title(loc="right")
    figure = loss({"loss": (steps, 2.5 - steps / 1000)}, {}, "nats per token")
    assert figure is not None
    assert figure.axes[0].get_ylim()[1] > 2.5
