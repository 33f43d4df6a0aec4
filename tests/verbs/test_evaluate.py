"""`evaluate` from the command line: what is printed, written and refused."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.cli import main
from jaxrl_llm.data.tokenizers import BytesTokenizer, save_tokenizer
from jaxrl_llm.eval_plots import draw_calibration
from jaxrl_llm.evals.preference import calibration
from jaxrl_llm.evaluation import choose_reference
from jaxrl_llm.models.hf import write_model
from jaxrl_llm.models.llama import LlamaConfig, llama_specs
from jaxrl_llm.parallel.specs import map_specs
from jaxrl_llm.saved import Base
from jaxrl_llm.types import Head
from tests.tiny import Runs

MODEL = LlamaConfig(vocab_size=264, context=96, d_model=32, d_ff=48, n_layers=1, n_heads=4, n_kv_heads=2)
NAMES = ("natural", "adversarial_manual")


def make(directory: Path, head: Head = "lm", seed: int = 0) -> Path:
    """A small Hugging Face directory with a tokenizer of bytes."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(seed).standard_normal
    params = map_specs(lambda spec: 0.2 * draw(spec.shape, np.float32), llama_specs(MODEL, head))
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    write_model(directory, MODEL, head, params, dtype="float32", max_shard=10**9, special=special, score=None)  # type: ignore[arg-type]
    save_tokenizer(BytesTokenizer(), directory)
    return directory


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "reward", "scalar")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def llmbar(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two subsets of four questions; one answer is too long for the context."""
    folder = tmp_path_factory.mktemp("llmbar")
    for name in NAMES:
        rows = [
            {
                "input": f"What is {i} + {i}?",
                "output_1": f"{2 * i}",
                "output_2": f"It is {2 * i + 1}.",
                "label": 1 + i % 2,
            }
            for i in range(4)
        ]
        rows[0]["output_2"] = "Let me see. " * (20 if name == "natural" else 1)
        (folder / f"llmbar_{name}.json").write_text(json.dumps(rows))
    return [str(folder / f"llmbar_{name}.json") for name in NAMES]


def evaluate(out: Path, model: Path, suite: str, files: list[str], *more: str) -> tuple[dict[str, Any], list[Any]]:
    assert main(["evaluate", str(model), "--suite", suite, "--data", *files, "--out", str(out), *more]) == 0
    scores = out / "scores.jsonl"
    rows = [json.loads(line) for line in scores.read_text().splitlines()] if scores.exists() else []
    return json.loads((out / "report.json").read_text()), rows


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, words)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return message


def test_a_reward_model_on_llmbar(
    reward: Path, llmbar: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, rows = evaluate(tmp_path / "out", reward, "rewardbench", llmbar, "--batch-size", "3")
    shown = capsys.readouterr().out
    for subset in ("llmbar-natural", "llmbar-adver-manual"):
        right = [row["scores"][0] > row["scores"][1] for row in rows if row["subset"] == subset]
        found = figures["subsets"][subset]
        assert found["accuracy"] == np.mean(right)
        assert found["questions"] == len(right) == 4
        line = next(line for line in shown.splitlines() if subset in line)
        assert f" {100 * np.mean(right):.2f} " in line
    weights, accuracies = (100, 46), [x["accuracy"] for x in figures["subsets"].values()]
    assert figures["overall"]["accuracy"] == pytest.approx(np.dot(weights, accuracies) / 146)
    assert "Chat Hard is computed without mt-bench-hard, llmbar-adver-neighbor" in shown
    assert "The overall figure is that without Chat, Safety, Reasoning." in shown
    assert "1 of 16 answers with their prompts were longer than 96 tokens" in shown
    assert [any(row["cut"]) for row in rows] == [True, *[False] * 7]
    assert "the reward model's own score; template: plain" in shown
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| &emsp;llmbar-natural | 4 of 100 |" in report
    assert "![Accuracy by subset](plots/accuracy.png)" in report
    assert (tmp_path / "out" / "plots" / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    fewer, _ = evaluate(tmp_path / "fewer", reward, "rewardbench", llmbar, "--limit", "1")
    assert {x["questions"] for x in fewer["subsets"].values()} == {1}
    assert "Only the first 1 questions of each subset" in capsys.readouterr().out


def test_a_policy_against_its_reference(
    policy: Path, llmbar: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """beta (log p - log p_ref), from the mean log-probabilities that each model gives alone."""
    assert "--reference none" in refused(capsys, policy, "--suite", "rewardbench", "--data", *llmbar)
    other = make(tmp_path / "other", seed=1)
    short = [llmbar[1]]
    alone = [
        evaluate(tmp_path / f"alone{i}", model, "rewardbench", short, "--reference", "none")[1]
        for i, model in enumerate((policy, other))
    ]
    assert "the mean log-probability of an answer's tokens, without a reference" in capsys.readouterr().out
    answers = [[len(row[f"output_{i}"]) for i in (1, 2)] for row in json.loads(Path(short[0]).read_text())]
    tokens = [np.array(n if i % 2 == 0 else n[::-1]) + 2 for i, n in enumerate(answers)]  # a space and EOS
    expected = [
        0.5 * n * (np.array(a["scores"]) - np.array(b["scores"])) for a, b, n in zip(*alone, tokens, strict=True)
    ]

    run = tmp_path / "run"  # one that says what it was trained from
    assert main(["import", str(policy), str(run)]) == 0
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("init_from: null", f"init_from: {other}"))
    capsys.readouterr()
    by_default = evaluate(tmp_path / "default", run, "rewardbench", short, "--beta", "0.5")[1]
    assert f"0.5 x (log p - log p of the reference {other})" in capsys.readouterr().out
    named = evaluate(tmp_path / "named", policy, "rewardbench", short, "--beta", "0.5", "--reference", str(other))[1]
    for rows in (by_default, named):
        np.testing.assert_allclose([row["scores"] for row in rows], expected, atol=1e-4)
    assert evaluate(tmp_path / "none", run, "rewardbench", short, "--reference", "none")[1] == alone[0]
    same, _ = evaluate(tmp_path / "same", policy, "rewardbench", short, "--reference", str(policy))
    assert (same["overall"]["accuracy"], same["overall"]["ties"]) == (0, 4)


def test_version_2_with_ties(reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(id: str, subset: str, chosen: list[str], rejected: list[str]) -> str:
        counts = {"num_correct": len(chosen), "total_completions": len(chosen) + len(rejected)}
        return json.dumps(
            {"id": id, "prompt": "Name a colour.", "chosen": chosen, "rejected": rejected, "subset": subset} | counts
        )

    lines = [
        row("1", "Focus", ["Red"], ["Dog", "Cat", "Sun"]),
        row("ref:1", "Ties", ["Red"], ["Dog"]),
        row("tied:1", "Ties", ["Red", "Blue"], ["Dog"]),
    ]
    (tmp_path / "v2.jsonl").write_text("\n".join(lines))
    figures, rows = evaluate(tmp_path / "out", reward, "rewardbench", [str(tmp_path / "v2.jsonl")])
    shown = capsys.readouterr().out
    assert "RewardBench 2" in shown
    focus, ref, tied = (row["scores"] for row in rows)
    assert figures["subsets"]["Focus"]["accuracy"] == float(focus[0] == max(focus))
    gap_ref, gap_tied, spread = ref[0] - ref[1], min(tied[:2]) - tied[2], abs(tied[0] - tied[1])
    least = min(gap_ref, gap_tied)
    score = 0.3 * (gap_tied > 0) + 0.3 * (gap_ref > 0) + 0.2 * (gap_tied > spread) + 0.2 * (least > spread)
    score += 0.01 * math.tanh(least / spread - 1)
    assert figures["subsets"]["Ties"]["accuracy"] == pytest.approx(score, abs=1e-4)
    assert rows[2]["credit"] is None
    assert any(line.split()[1:3] == ["Ties", "│"] for line in shown.splitlines())


def test_own_preferences(reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows as one trains on, of the last of which the share in order is the accuracy, with its interval."""

    def dialogue(question: str, answer: str) -> str:
        return f"\n\nHuman: {question}\n\nAssistant: {answer}"

    hh = [{"chosen": dialogue(f"Who is {i}?", "Nobody"), "rejected": dialogue(f"Who is {i}?", "I")} for i in range(6)]
    hh[5]["rejected"] = hh[5]["chosen"]
    ranked = {"prompt": "Name a river.", "answers": ["Po", "Ob", "Cat"], "ranks": [1, 1, 0], "subset": "rivers"}
    mixed = [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "system": "Be brief.", "margin": 1.0},
        {"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": "5",
        },
        ranked,
        ranked | {"ranks": [0, 0, 0]},
    ]
    for name, rows in {"hh.test": hh, "mixed": mixed}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(tmp_path / "hh.test.jsonl"), str(tmp_path / "mixed.jsonl")]
    figures, rows = evaluate(tmp_path / "out", reward, "rewardbench", files, "--holdout-rows", "5")
    shown = capsys.readouterr().out
    assert "Preferences:" in shown
    assert "Only the last 5 rows of each file were read." in shown
    assert "2 rows ask nothing, their answers being alike or of equal rank." in shown
    assert "1 questions are rankings" in shown
    assert {name: x["questions"] for name, x in figures["subsets"].items()} == {"hh": 4, "mixed": 3, "rivers": 1}
    right = [row["scores"][0] > row["scores"][1] for row in rows if row["subset"] == "hh"]
    assert [row["origin"].rpartition(":")[2] for row in rows[:4]] == ["2", "3", "4", "5"]
    assert figures["subsets"]["hh"]["accuracy"] == np.mean(right)
    cat, *others = rows[-1]["scores"]
    assert figures["subsets"]["rivers"]["accuracy"] == np.mean([cat > other for other in others])
    assert figures["overall"] is None
    assert figures["sections"]["other"]["questions"] == 8
    assert rows[4]["scores"] != rows[6]["scores"]  # of the same answers, after a system message
    bench = ("--suite", "rewardbench", "--data", files[0])
    assert "has 6 rows, fewer than --holdout-rows 7" in refused(capsys, reward, *bench, "--holdout-rows", "7")
    assert "--holdout-rows must be at least 1" in refused(capsys, reward, *bench, "--holdout-rows", "0")
    assert "in no row is one answer better" in refused(capsys, reward, *bench, "--holdout-rows", "1")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"chosen": "a", "rejected": "b"}))
    bench = ("--suite", "rewardbench", "--data", str(tmp_path / "bad.jsonl"))
    assert "bad.jsonl:1: a row of the format hh: `chosen`: expected a dialogue" in refused(capsys, reward, *bench)


def test_the_held_out_rows_of_a_run(runs: Runs, tmp_path: Path) -> None:
    """The accuracy that the run logged of them is what is found for them."""
    run = runs("ranked")
    opened_rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = next(row["accuracy"] for row in opened_rows if row["split"] == "validation")
    data = [str(run.parent / "ranked.jsonl")]
    figures, _ = evaluate(tmp_path / "out", run, "rewardbench", data, "--holdout-rows", "12", "--max-length", "64")
    assert figures["sections"]["other"]["accuracy"] == pytest.approx(logged)


def test_perplexity_by_domain(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    texts = {"prose.txt": "It is a truth. " * 40, "a/prose.txt": "0123456789" * 20}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"body": "Emma was happy. " * 9}))
    files = [str(tmp_path / name) for name in texts]
    figures, _ = evaluate(tmp_path / "out", policy, "perplexity", files, "--length", "32")
    shown = capsys.readouterr().out
    assert list(figures["domains"]) == files
    for file, text in zip(files, texts.values(), strict=True):
        found = figures["domains"][file]
        assert found["tokens"] == len(text) + 1  # of BOS, the text, EOS all but the first
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2) * (len(text) + 1) / len(text))
        assert f"{found['bits_per_byte']:.4f}" in shown
    assert (tmp_path / "out" / "plots" / "domains.png").is_file()
    assert not (tmp_path / "out" / "scores.jsonl").exists()
    rows = [str(tmp_path / "rows.jsonl")]
    fewer, _ = evaluate(tmp_path / "few", policy, "perplexity", rows, "--length=32", "--limit=2", "--field=body")
    assert fewer["domains"]["rows"]["tokens"] == 64
    assert "no field 'text'" in refused(capsys, policy, "--suite", "perplexity", "--data", *rows)


def test_what_is_refused(
    policy: Path, reward: Path, llmbar: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = ["--suite", "rewardbench", "--data", *llmbar]
    (tmp_path / "mine.txt").write_text("mine")
    assert "shall not be overwritten" in refused(capsys, reward, *bench, "--out", tmp_path)
    assert "is a reward model, whose score needs none" in refused(capsys, reward, *bench, "--reference", policy)
    assert "more than the model's context of 96" in refused(capsys, reward, *bench, "--max-length", "97")
    assert "--length is of --suite perplexity" in refused(capsys, reward, *bench, "--length", "9")
    assert "--beta must be above 0" in refused(capsys, policy, *bench, "--beta", "0")
    assert "--batch-size must be at least 1" in refused(capsys, policy, *bench, "--batch-size", "0")
    assert "chat template nothing" in refused(capsys, reward, *bench, "--template", "nothing")
    assert "the reference: nowhere: there is no run" in refused(capsys, policy, *bench, "--reference", "nowhere")
    assert "no language model" in refused(capsys, policy, *bench, "--reference", reward)
    text = ["--suite", "perplexity", "--data", tmp_path / "mine.txt"]
    assert "no language model" in refused(capsys, reward, *text)
    assert "--beta is of --suite rewardbench" in refused(capsys, policy, *text, "--beta", "1")
    assert "more than the model's context of 96" in refused(capsys, policy, *text, "--length", "97")
    assert "no such file" in refused(capsys, policy, "--suite", "perplexity", "--data", "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
    assert not list(tmp_path.parent.glob(".*partial"))


def test_calibration_is_drawn(tmp_path: Path) -> None:
    draw_calibration(calibration(np.array([1.0, 0.0, 3.0]), np.array([0.0, 0.5, 0.0])), tmp_path / "a" / "c.png")
    assert (tmp_path / "a" / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_the_reference_is_the_very_checkpoint_that_training_began_from() -> None:
    """Of a run that has gone on since, init_from alone would open a later one."""
    opened: Any = SimpleNamespace(
        head="lm",
        config=SimpleNamespace(algo=DpoConfig(), init_from="runs/sft"),
        card=SimpleNamespace(base=Base("/runs/sft/checkpoints/100", "abc")),
    )
    assert choose_reference(opened, "runs/dpo", None) == "/runs/sft/checkpoints/100"
    assert choose_reference(opened, "runs/dpo", "other") == "other"
    opened.card.base = None
    assert choose_reference(opened, "runs/dpo", None) == "runs/sft"


def test_a_reference_that_is_not_there_is_told_before_anything_is_scored(
    policy: Path, llmbar: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxrl_llm.evaluation._score", lambda *_: pytest.fail("scored"))
    assert "the reference: nowhere: there is no run" in refused(
        capsys, policy, "--suite", "rewardbench", "--data", llmbar[1], "--reference", "nowhere"
    )
