"""A policy's answers to a task: asked as it was trained, graded one by one, with programs compiled once."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm import answering as room
from jaxrl_llm.answering import Answer, make_answering, make_task_evaluation, task_metrics
from jaxrl_llm.cli import main
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.config import TaskEvalConfig
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.rollout.sampler import Completion, Stats
from jaxrl_llm.saved import Opened, open_model
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from jaxrl_llm.tasks.gsm8k import Gsm8kConfig
from tests.tiny import WORDS, Runs

ONE = make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture
def problems(tmp_path: Path) -> Gsm8kConfig:
    """Six, each short, whose answers are 0 to 5."""
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"{WORDS[i]} {WORDS[i + 1]}?", "answer": f"#### {i}"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Gsm8kConfig(path=str(path), test_path=str(path))


@pytest.fixture
def opened(runs: Runs) -> Opened:
    return open_model(runs("sft"), ONE)


def answering(opened: Opened, config: Gsm8kConfig | ArithmeticConfig, **more: Any) -> Answer:
    more = {"problems": 6, "max_new_tokens": 8, "context": 128, "slots": 4} | more
    template = find_template(opened.tokenizer)
    return make_answering(opened.model, opened.mesh, opened.tokenizer, template, build_task(config), **more)


class Scripted:
    """In place of the sampler: the answers of each problem, byte by byte; an answer without "|" did not end."""

    answers: tuple[tuple[str, ...], ...] = ()

    def __init__(self, *args: Any, **more: Any) -> None:
        (self.end,) = more["stop_ids"]

    def __call__(self, params: Any, prompts: Sequence[Any], *, n: int, progress: Any, **more: Any) -> Any:
        def completion(text: str) -> Completion:
            ids = [*text.rstrip("|").encode(), *[self.end] * text.endswith("|")]
            return Completion(ids, np.zeros(len(ids)), np.zeros(len(ids)), text.endswith("|"))

        progress(Stats(completions=2))
        progress(Stats(completions=len(prompts) * n))
        return [[completion(text) for text in row] for row in self.answers], Stats()


def test_each_answer_is_graded_by_its_own_problem(
    opened: Opened, problems: Gsm8kConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "Sampler", Scripted)
    answer = answering(opened, problems, n=2)
    task = build_task(problems)
    values = [each.value for each in task.examples("test", 6, 0)]
    right = tuple(f" #### {value} |" for value in values)
    wrong = tuple(f"#### {value + 1}|" for value in values)
    Scripted.answers = (
        (right[0], wrong[0]),
        (wrong[1], "none|"),
        (right[2].rstrip("|"), "#### "),
        (right[0], wrong[3]),
        ("|", right[4]),
        (right[5], right[5]),
    )
    told: list[int] = []
    found = answer(None, told.append)
    assert told == [2, 10]
    assert found.right_BN.tolist() == [[1, 0], [0, 0], [1, 0], [0, 0], [0, 1], [1, 1]]
    assert found.parsed_BN.tolist() == [[1, 1], [1, 0], [1, 0], [1, 1], [0, 1], [1, 1]]
    assert found.ended_BN.tolist() == [[1, 1], [1, 1], [0, 0], [1, 1], [1, 1], [1, 1]]
    assert found.texts[0] == [f"#### {values[0]}", f"#### {values[0] + 1}"]
    assert found.answers[1] == [values[1] + 1, None]
    assert found.lengths_BN[4].tolist() == [1, 9]
    figures = task_metrics(found)
    assert figures["accuracy"] == 0.5
    assert 0 < figures["accuracy_low"] < 0.5 < figures["accuracy_high"] < 1
    assert figures["parsed"] == figures["ended"] == pytest.approx(5 / 6)
    assert figures["accuracy_of_parsed"] == pytest.approx(3 / 5)
    assert figures["length"] == pytest.approx(
        np.mean([len(row[0].rstrip("|")) + row[0].endswith("|") for row in Scripted.answers])
    )
    assert figures["problems"] == 6
    Scripted.answers = (("x|", "x|"),) * 6
    assert "accuracy_of_parsed" not in task_metrics(answer(None))
    broken = replace(task, grade=lambda text, example: math.inf)
    monkeypatch.setattr(room, "build_task", lambda config: broken)
    evaluate = make_task_evaluation(
        {"hard": TaskEvalConfig(task=problems, problems=6, max_new_tokens=8)},
        *(opened.model, ONE, opened.tokenizer, find_template(opened.tokenizer), 128),
    )
    with pytest.raises(UserError, match=r"(?s)the grader of gsm8k gave inf.*row 0, .*problems.jsonl:"):
        evaluate(None)


def test_problems_are_asked_as_generate_asks(runs: Runs, opened: Opened, problems: Gsm8kConfig, tmp_path: Path) -> None:
    found = answering(opened, problems, temperature=1.5, seed=3)(opened.params)
    asked = [prompt.said[0]["content"] for prompt in found.prompts]  # type: ignore[index]
    (tmp_path / "p.txt").write_text("\n".join(asked))
    command = ["generate", str(runs("sft")), "--prompts", str(tmp_path / "p.txt"), "--chat", "--temperature", "1.5"]
    assert main([*command, "--seed", "3", "--max-new-tokens", "8", "--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [[row["completion"]] for row in rows] == found.texts
    assert [[len(row["tokens"])] for row in rows] == found.lengths_BN.tolist()
    assert len({text for (text,) in found.texts}) == 6


def test_other_weights_run_the_same_programs(opened: Opened, problems: Gsm8kConfig) -> None:
    traced: list[str] = []

    def counted(name: str, function: Any) -> Any:
        return lambda *args: traced.append(name) or function(*args)

    decoder = replace(
        opened.model.decoder,
        **{name: counted(name, getattr(opened.model.decoder, name)) for name in ("prepare", "prefill", "decode")},
    )
    evaluate = make_task_evaluation(
        {"short": TaskEvalConfig(task=problems, problems=6, max_new_tokens=8, slots=4)},
        *(replace(opened.model, decoder=decoder), ONE, opened.tokenizer, find_template(opened.tokenizer), 128),
    )
    first, n = evaluate(opened.params), len(traced)
    assert n > 0
    space, end = ord(" "), opened.tokenizer.eos_id  # with which all answers of this model begin; and end, now
    swapped = opened.params["unembed"].at[:, np.asarray([space, end])].set(opened.params["unembed"][:, [end, space]])
    other = evaluate(opened.params | {"unembed": swapped})
    assert other["short"]["ended"] == other["short"]["length"] == 1
    assert evaluate(opened.params) == first != other
    assert len(traced) == n
    assert first["short"].keys() >= {"accuracy", "accuracy_low", "accuracy_high", "parsed", "ended", "length"}


def test_what_does_not_fit_is_told_before_anything_runs(opened: Opened, problems: Gsm8kConfig) -> None:
    with pytest.raises(UserError, match=r"problems.jsonl:\d: the problem has \d+ tokens, and with an answer of 120 it"):
        answering(opened, problems, max_new_tokens=120)
    with pytest.raises(UserError, match=r"arithmetic test problem \d+ of seed 3: .*\n  mend: fewer max_new_tokens"):
        answering(opened, ArithmeticConfig(), seed=3, max_new_tokens=64)
    config = TaskEvalConfig(task=problems, problems=7)
    with pytest.raises(UserError, match=r"eval.tasks.many: .*problems.jsonl: 7 problems are asked for, and it has 6"):
        make_task_evaluation(
            {"many": config}, opened.model, ONE, opened.tokenizer, find_template(opened.tokenizer), 128
        )
