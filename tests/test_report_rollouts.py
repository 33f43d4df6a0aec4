"""The report of reinforcement learning, from run directories made by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from jaxrl_llm.plots import rollouts as plots
from jaxrl_llm.plots.look import Curve
from jaxrl_llm.report import write_report

Row = dict[str, Any]
PARTS = {"grade": {"kind": "task", "weight": 1.0}, "brevity": {"kind": "length", "free": 16, "weight": 0.01}}
UPDATES = 4  # of a round


def update(step: int, kind: str, **more: Any) -> Row:
    """A row of 100 steps, of which a round takes 4: its reward rises from .4 to .8, its KL to 6 nats."""
    number = (step - 1) // UPDATES
    share = number * UPDATES / 100
    row = {
        "step": step, "split": "train", "loss": 0.1, "lr": 1e-5, "tokens": 64 * step, "round": float(number),
        "score": 0.4 + 0.4 * share, "score_std": 0.3, "kl": 6 * share, "kl_k3": 6.5 * share, "kl_coef": 0.05,
        "entropy": 0.3, "approx_kl_k3": 0.001, "length": 50.0, "ended": 0.975, "reward/grade": 0.5 + 0.4 * share,
        "reward/brevity": -10.0, "reward/combined": 0.7, "sample_s": 9.0 if number == 0 else 2.0, "score_s": 0.25,
        "prepare_s": 0.75, "step_ms": 1000.0, "data_wait_ms": 750.0, "clip_fraction": 0.05,
    }  # fmt: skip
    if kind == "ppo":
        row["explained_variance"] = share
    return row | more


def solved(step: int, name: str, accuracy: float, parsed: float, **more: Any) -> Row:
    bounds = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
    of_parsed = accuracy / parsed if parsed else None
    shares = {"parsed": parsed, "ended": parsed, "accuracy_of_parsed": of_parsed}
    return {"step": step, "split": name, "accuracy": accuracy, **bounds, **shares, "problems": 2000.0, **more}


def answer(number: int, reward: float, round: int = 24, **more: Any) -> Row:
    return {
        "step": 1 + UPDATES * round, "round": round,
        "prompt": [{"role": "user", "content": f"Prompt {number} of {round}"}],
        "completion": f"so | `{number}`\n#### {number}", "reward": reward, "parts": {"grade": reward, "brevity": -2.0},
        "ended": number % 2 == 0, "tokens": [1, 2, 3], **more,
    }  # fmt: skip


def run_directory(path: Path, rows: list[Row], kind: str, samples: list[Row], **rollout: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    rollout = {"prompts": 32, "n": 4, "kl": {"coef": 0.05, "target": 6.0}, "rewards": {"parts": PARTS}} | rollout
    config = {"algo": {"kind": kind}, "init_from": "runs/sft", "data": {"task": {"kind": "arithmetic"}}}
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"rollout": rollout}))
    for name, lines in (("metrics", rows), ("samples", samples)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 updates with evaluations at their begin, middle and end; answers of two rounds, and a sample of the end."""
    rows = [update(step, "ppo", kl_coef=0.05 + step / 1000) for step in range(2, 101, 2)]
    for step, accuracy, parsed in ((0, 0.4, 0.8), (50, 0.7, 0.9), (100, 0.72, 0.96)):
        rows.append(solved(step, "arith|metic", accuracy, parsed))
    samples = [answer(n, n / 10, round=20) for n in range(3)] + [answer(n, n / 20 - 0.2) for n in range(12)]
    samples.append({"step": 100, "prompt": "Once", "completion": " upon a time"})
    path = run_directory(tmp_path_factory.mktemp("runs") / "ppo", rows, "ppo", samples)
    write_report(path)
    return path


def test_accuracy_before_and_after_can_be_read(ppo: Path) -> None:
    found = strict_json(ppo / "report.json")["gains"]["arith|metic"]
    assert (found["before"]["accuracy"], found["after"]["accuracy"]) == (0.4, 0.72)
    assert (found["before"]["step"], found["after"]["step"]) == (0, 100)
    assert found["gain"] == pytest.approx(0.32)
    # parsed .8 -> .96 at a mean accuracy of .625 of those; accuracy of those .5 -> .75 at a mean share of .88
    assert (found["format"], found["reasoning"]) == pytest.approx((0.1, 0.22))


def test_the_page_says_what_was_gained(ppo: Path) -> None:
    page = (ppo / "report.md").read_text()
    assert "**ppo**: 100 steps, 25 rounds of 128 answers, 0:01:40 of training." in page
    assert "solved: arith|metic **72.0 %** (40.0 % before), 95 % interval 70.0 – 74.0, 2,000 problems." in page
    assert "reward **0.771** (0.400 in the first round), KL to the reference **5.57** nats an answer (target 6)" in page
    assert "97.5 % of the answers ended by themselves, 50 tokens long." in page
    assert (
        "| arith\\|metic | 40.0 | 72.0 | 70.0 – 74.0 | +32.0 | +10.0 | +22.0 | 80.0 | 96.0 | 80.0 | 96.0 | 2,000 |"
        in page
    )
    assert "Loss at the end" not in page  # PPO's says nothing
    assert "told rightly" not in page
    assert "## Evaluation" not in page
    assert f"jaxrl-llm evaluate {ppo} --suite task --before runs/sft" in page


def test_where_the_time_went(ppo: Path) -> None:
    seconds = strict_json(ppo / "report.json")["learnt"]["seconds"]
    # 100 steps of a second are 25 rounds of 4; the first one's sampling, which compiles, is not typical
    assert seconds == {"round": 4.0, "sample": 2.0, "score": 0.25, "prepare": 0.75, "update": 1.0}
    page = (ppo / "report.md").read_text()
    assert "| seconds a round | 4.00 |\n| of them sampling | 2.00 (50 %) |" in page
    assert "| of them updates | 1.00 (25 %) |" in page
    assert "waiting for data" not in page


def test_answers_of_the_newest_round_best_and_worst(ppo: Path) -> None:
    page = (ppo / "report.md").read_text()
    _, _, section = page.partition("## Answers and their rewards")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if "Prompt" in line]
    assert [line.split("`")[1] for line in lines] == [f"Prompt {n} of 24" for n in (11, 10, 9, 8, 3, 2, 1, 0)]
    assert lines[0] == "| `Prompt 11 of 24` | `so \\| '11'\\n#### 11` | 0.350 | 0.350 | −2.000 | no | 3 |"
    assert "Round 24, step 97" in section
    assert "```text\nOnce upon a time\n```" in section  # what other stages show is there too
    assert "tokens" not in strict_json(ppo / "report.json")["answers"][0]


def test_the_plots_of_a_run(ppo: Path) -> None:
    page = (ppo / "report.md").read_text()
    names = {"rl.png", "health.png", "learning_rate.png"}
    assert {path.name for path in (ppo / "plots").iterdir()} == names
    for name in names:
        assert f"plots/{name}" in page
        pixels = imread(ppo / "plots" / name)
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1])[::53], axis=0)) > 20
    assert page.index("rl.png") < page.index("## Gain") < page.index("health.png")


def train_curves(kind: str = "ppo") -> dict[str, Curve]:
    rows = [update(step, kind, entropy=0.3 + 1e-9 * step) for step in range(1, 101)]
    names = rows[0].keys() - {"step", "split"}
    return {name: (np.arange(1.0, 101), np.array([row[name] for row in rows])) for name in names}


LEARNT = {"reward": "score", "weights": {"grade": 1.0}, "kl_target": 7.0}


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_panels_of_the_course() -> None:
    train = train_curves()
    train["kl_coef"] = (train["kl_coef"][0], np.linspace(0.05, 0.2, 100))
    at = np.array([0.0, 50.0, 100.0])
    tasks = {"sums": {"accuracy": (at, at / 200), "accuracy_low": (at, at / 250), "accuracy_high": (at, at / 150)}}
    figure = plots.course(train, tasks, LEARNT)
    assert figure is not None
    reward, kl, coefficient, accuracy = figure.axes
    assert "0.782" in words(reward)
    assert len(reward.collections) == 1  # the band
    assert {"target 7", "k1  5.73", "k3  6.20"} <= set(words(kl))
    assert 7.0 in [np.asarray(line.get_ydata())[0] for line in kl.lines]
    assert kl.get_ylim()[1] > 7.0
    assert "β  0.200" in words(coefficient)
    assert words(accuracy) == ["%, sums; the band is the 95 % interval", "50.0"]


def test_parts_are_weighed_and_a_coefficient_that_stays_is_in_the_title() -> None:
    learnt = LEARNT | {"weights": {"grade": 1.0, "brevity": 0.01}, "kl_target": None}
    figure = plots.course(train_curves(), {}, learnt)
    assert figure is not None
    reward, kl = figure.axes
    assert {"reward  0.782", "grade  0.882", "brevity  −0.100"} <= set(words(reward))
    assert len(reward.collections) == 0
    assert "nats an answer; β = 0.05" in words(kl)


def test_rewards_of_0_and_1_have_no_band() -> None:
    train = train_curves()
    steps, mean = train["score"]
    figure = plots.course(train | {"score_std": (steps, np.sqrt(mean * (1 - mean)))}, {}, LEARNT)
    assert figure is not None
    assert len(figure.axes[0].collections) == 0


@pytest.mark.parametrize(
    ("kind", "panels"),
    [
        ("ppo", ["Critic", "Length", "Ended by themselves"]),
        ("grpo", ["Length", "Ended by themselves", "Spread of rewards"]),
    ],
)
def test_the_panels_of_health(kind: str, panels: list[str]) -> None:
    figure = plots.health(train_curves(kind))
    assert figure is not None
    always = ["Entropy", "Clipped", "KL from the policy that wrote"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*always, *panels]
    entropy = figure.axes[0]
    assert np.ptp(entropy.get_ylim()) >= 0.01  # it does not move: no axis of rounding errors


def test_normalised_rewards_are_shown_before_that(tmp_path: Path) -> None:
    rows = [update(step, "grpo", score=0.0) for step in range(4, 101, 4)]
    rewards = {"parts": PARTS, "normalise": "whiten"}
    page = write_report(run_directory(tmp_path / "run", rows, "grpo", [], rewards=rewards)).read_text()
    assert "At the end: reward before normalisation **0.700**" in page


def test_a_task_that_another_stage_is_asked(tmp_path: Path) -> None:
    rows: list[Row] = [{"step": step, "split": "train", "loss": 1.0} for step in (10, 20)]
    rows += [{"step": step, "split": "text", "loss": 2.0, "bits_per_byte": 1.0} for step in (0, 20)]
    rows += [{"step": step, "split": "more", "loss": 2.0, "bits_per_byte": 1.0} for step in (0, 20)]
    rows += [solved(0, "sums", 0.0, 0.0), solved(20, "sums", 0.45, 0.9)]  # nothing could be read before
    page = write_report(run_directory(tmp_path / "run", rows, "sft", [])).read_text()
    figures = strict_json(tmp_path / "run" / "report.json")
    assert figures["learnt"] is None
    assert figures["gains"]["sums"]["format"] == pytest.approx(0.45)
    assert "Loss at the end: training 1.0000, text **2.0000** (2.0000 before), more" in page
    assert "| sums | 0.0 | 45.0 | 43.0 – 47.0 | +45.0 | +45.0 | +0.0 |" in page
    assert "| text | 20 | 2.0000 |" in page
    assert "| sums | 20 |" not in page
    drawn = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert drawn == {"tasks.png", "loss.png", "domains.png"}  # domains are compared among themselves


@pytest.mark.parametrize(
    "rows",
    [
        [update(1, "ppo")],
        [update(1, "ppo", score=None, kl=math.nan, step_ms=None)],
        [{"step": 1, "split": "train", "loss": 0.1, "score": 0.5}],
        [update(4, "ppo"), solved(4, "sums", 0.5, 0.9)],
        [solved(0, "sums", 0.5, 0.9)],
    ],
    ids=["one row", "not finite", "no round", "no accuracy before", "nothing but an evaluation"],
)
def test_short_and_broken_runs(tmp_path: Path, rows: list[Row]) -> None:
    page = write_report(run_directory(tmp_path / "run", rows, "ppo", [answer(0, 1.0)])).read_text()
    figures = strict_json(tmp_path / "run" / "report.json")
    assert "before)" not in page
    assert all("gain" not in found for found in figures["gains"].values())
    assert "Prompt 0 of 24" in page
