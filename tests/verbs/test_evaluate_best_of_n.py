"""`evaluate --suite best-of-n`: one pool of samples, other policies beside it, and what stops it before any work."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxrl_llm.best_of_n.answers import Answers, logps_of
from jaxrl_llm.best_of_n.judge import score
from jaxrl_llm.best_of_n.questions import find_policy, name_runs, open_questions
from jaxrl_llm.cli import main
from jaxrl_llm.errors import UserError
from jaxrl_llm.eval_plots import best_of_n
from jaxrl_llm.evals.best_of_n import kl_bound
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.saved import open_model
from tests.test_scorers import Renamed
from tests.tiny import Runs

N = 4


@pytest.fixture
def asks(tmp_path: Path) -> Path:
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("ash bay", "cod", "dew elm fig", "gnu", "hay")]
    path = tmp_path / "asks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_pool_of_samples_beside_other_policies(
    runs: Runs, asks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, judges = tmp_path / "out", ["--reward", str(runs("reward")), "--judge", str(runs("ranked"))]
    command = ["evaluate", str(runs("sft")), "--suite", "best-of-n", "--data", str(asks), "--problems", "4", *judges]
    more = ["--n", f"{N}", "--max-new-tokens", "8", "--against", str(runs("dpo")), str(runs("sft")), "--out", str(out)]
    assert main([*command, *more]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((out / "report.json").read_text())
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [row["origin"] for row in rows] == [f"{asks}:{line}" for line in range(1, 5)]
    assert {len(row["samples"]) for row in rows} == {N + 1}
    for row in rows:  # equal texts are given the same, whoever wrote them
        alike: dict[str, set[float]] = {}
        for each in (*row["samples"], *itertools.chain(*row["runs"].values())):
            alike.setdefault(each["text"], set()).add((each["reward"], each["judge"]))  # type: ignore[arg-type]
        assert {len(found) for found in alike.values()} == {1}

    reward_BM, judge_BM = (
        np.array([[each[k] for each in row["samples"]] for row in rows]) for k in ("reward", "judge")
    )
    best_of = figures["best_of"]
    assert [*best_of] == ["1", "2", "4"]
    pairs = [
        [max(reward_M[i], reward_M[j]) for i, j in itertools.combinations(range(N + 1), 2)] for reward_M in reward_BM
    ]
    assert best_of["2"]["reward"] == pytest.approx(np.mean(pairs))
    assert best_of["1"]["reward"] == pytest.approx(reward_BM.mean())
    assert best_of["4"]["kl_bound"] == kl_bound(4)
    won = []
    for (i, j), b in itertools.product(
        itertools.permutations(range(N + 1), 2), range(4)
    ):  # the best of 4, one left out
        rest = [k for k in range(N + 1) if k != j]
        top = max(reward_BM[b, rest])
        if reward_BM[b, i] == top:
            share = 1 / sum(reward_BM[b, rest] == top)
            won.append(share * ((judge_BM[b, i] > judge_BM[b, j]) + 0.5 * (judge_BM[b, i] == judge_BM[b, j])))
    assert best_of["4"]["wins"]["judge"]["rate"] == pytest.approx(sum(won) / (4 * (N + 1)))
    assert best_of["4"]["wins"]["reward"]["rate"] <= 4 / 5 + 1e-9
    assert "accuracy" not in best_of["4"]

    same, other = figures["runs"]["sft"], figures["runs"]["dpo"]
    assert (same["kl"], same["kl_interval"]) == (0, [0, 0])
    log_ratio = [[each["logp"] - each["base_logp"] for each in row["runs"]["dpo"]] for row in rows]
    assert np.shape(log_ratio) == (4, 4)
    assert np.std(log_ratio) > 0
    assert other["kl"] == pytest.approx(np.mean(log_ratio))
    rewards = np.array([[each["reward"] for each in row["runs"]["dpo"]] for row in rows])
    assert other["reward"] == pytest.approx(rewards.mean())
    wins = (rewards[:, :, None] > reward_BM[:, None]) + 0.5 * (rewards[:, :, None] == reward_BM[:, None])
    assert other["wins"]["reward"]["rate"] == pytest.approx(wins.mean())

    line = next(line for line in shown.splitlines() if line.startswith("│ 4 "))
    assert f" {best_of['4']['reward']:.3f} ".replace("-", "−") in line
    assert " 0.636 " in line
    assert f"4 prompts of {asks}, asked by the template of the model; answers of up to 8 tokens" in shown
    report = (out / "report.md").read_text()
    assert "| **dpo** |" in report
    assert "KL(best of n ‖ base) <= log n" in report
    assert sorted(path.name for path in (out / "plots").iterdir()) == ["reward_kl.png", "wins.png"]


def test_log_probabilities_are_those_of_the_sampler(runs: Runs, asks: Path, tmp_path: Path) -> None:
    """At temperature 1 the sum of what each token was drawn with, its end token included."""
    out, sft = tmp_path / "rows.jsonl", str(runs("sft"))
    words = ["--prompts", str(asks), "--n", "2", "--max-new-tokens", "8", "--out", str(out)]
    assert main(["generate", sft, *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    opened = open_model(sft, make_mesh(MeshConfig(), jax.devices()[:1]))
    none: dict[str, Any] = {"task": None, "problems": None, "template": None}
    asked = open_questions(sft, opened.tokenizer, data=[str(asks)], max_new_tokens=8, seed=0, **none)
    tokens = [[row["tokens"] for row in rows[at : at + 2]] for at in range(0, 10, 2)]
    (found_BN,) = logps_of(opened, asked, [Answers([], tokens)], 4, "")
    np.testing.assert_allclose(found_BN.ravel(), [sum(row["logp"]) for row in rows], atol=1e-4)

    ended = [[[*ids[:3], opened.tokenizer.eos_id] for ids in each] for each in tokens]
    (found_BN,) = logps_of(opened, asked, [Answers([], ended)], 4, "")
    prompt, answer = asked.prompts[0].ids, ended[0][1]
    logits_TV = opened.model.logits(opened.params, np.asarray([[*prompt, *answer]]))[0]
    logp_TV = jax.nn.log_softmax(logits_TV[len(prompt) - 1 : -1])
    assert found_BN[0, 1] == pytest.approx(float(logp_TV[np.arange(4), np.asarray(answer)].sum()), abs=1e-4)


def test_equal_answers_are_asked_about_once() -> None:
    asked: list[tuple[str, str]] = []

    def judge(prompts: Any, texts: Any) -> np.ndarray:
        asked.extend((prompt.said, text) for prompt, text in zip(prompts, texts, strict=True))
        return np.arange(len(asked) - len(texts), len(asked), dtype=np.float32)

    prompts = [Prompt((), f"{i}", "") for i in range(70)]
    found = score(judge, prompts, [["a", "b", "a"], *[["b", "b", "b"]] * 69], "")
    assert found.tolist() == [[0, 1, 0], *[[i, i, i] for i in range(2, 71)]]
    assert asked == [("0", "a"), ("0", "b"), *((f"{i}", "b") for i in range(1, 70))]


def test_names_of_runs() -> None:
    paths = ["/a/ppo", "/a/dpo/", "/b/x/checkpoints/200", "/a/ppo"]
    assert [*name_runs(paths)] == ["ppo", "dpo", "x@200"]
    assert name_runs(["/a/x/ppo", "/b/x/ppo"]) == {"a/x/ppo": "/a/x/ppo", "b/x/ppo": "/b/x/ppo"}
    assert name_runs([]) == {}


def test_labels_of_plots_do_not_overlap() -> None:
    """With many runs of like reward and long names, and an n at every power of two."""
    wins = {"reward": {"rate": 0.5, "interval": (0.4, 0.6)}}
    curve = {
        n: {"kl_bound": kl_bound(n), "reward": float(np.log(n)), "reward_interval": (np.log(n) - 1, np.log(n) + 1)}
        | {"win_bound": n / (n + 1), "wins": wins, "accuracy": 0.5, "interval": (0.4, 0.6)}
        for n in (2**i for i in range(8))
    }
    point = {"reward": 2.0, "reward_interval": (1.9, 2.1), "kl_interval": (59.0, 61.0), "accuracy": 0.5}
    runs = {f"{'folder/' * 9}run{i}": point | {"kl": 60 - i} for i in range(6)}
    drawn = best_of_n({"best_of": curve, "runs": runs, "task": {}})
    assert [*drawn] == ["reward_kl.png", "wins.png", "accuracy.png"]
    for _, figure in drawn.values():
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        above = axes.child_axes[0].get_xticklabels() if axes.child_axes else []
        shown = [each for each in (*axes.texts, *above, axes._left_title, axes._right_title) if each.get_text()]  # type: ignore[attr-defined]
        boxes = [each.get_window_extent() for each in shown]
        for (a, one), (b, two) in itertools.combinations(zip(shown, boxes, strict=True), 2):
            assert not one.overlaps(two), f"{a} lies on {b}"
        assert axes.bbox.width > 0.4 * figure.bbox.width


def test_what_is_refused(
    runs: Runs, asks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxrl_llm.best_of_n.evaluation.visit", lambda *_: pytest.fail("sampled"))

    def refused(*words: object, model: Path | None = None) -> str:
        assert main(["evaluate", str(model or runs("sft")), "--suite", "best-of-n", *map(str, words)]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        return message

    data, reward = ("--data", asks, "--max-new-tokens", 8), ("--reward", runs("reward"))
    assert "needs --reward" in refused(*data)
    assert "--n must be at least 2" in refused(*data, *reward, "--n", 1)
    assert "exclude each other" in refused(*data, *reward, "--task", "arithmetic")
    assert "its config has no tasks" in refused(*reward)
    assert "--temperature is of --suite task, and this is best-of-n" in refused(*data, *reward, "--temperature", 2)
    assert "--problems 9: " in refused(*data, *reward, "--problems", 9)
    assert "asks.jsonl:1: the prompt has" in refused(*data[:2], *reward)
    assert "and a reward model is wanted" in refused(*data, "--reward", runs("sft"))
    assert "and a reward model is wanted" in refused(*data, *reward, "--judge", runs("sft"))
    assert "no language model" in refused(*data, *reward, model=runs("reward"))
    assert "no language model" in refused(*data, *reward, "--against", runs("reward"))
    assert "nowhere: there is no run" in refused(*data, *reward, "--against", tmp_path / "nowhere")
    asks.write_text('{"prompt": "a"}\n{"prompt": [{"role": "user", "content": "b"}]}\n')
    assert "others text to go on with" in refused(*data, *reward)
    assert main(["evaluate", "x", "--suite", "task", "--against", "y"]) == 2
    assert "--against is of --suite best-of-n, and this is task" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"another tokenizer .* than the base .*\n  mend: runs that were trained"):
        find_policy(str(runs("dpo")), Renamed())
