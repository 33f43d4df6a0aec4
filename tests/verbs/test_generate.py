"""`generate`: text that is gone on with, conversations that are answered, and rows that `label` and training read."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.data.chat import BUNDLED, find_template
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Comparison, Conversation
from jaxrl_llm.data.prompts import Prompt as Said
from jaxrl_llm.data.prompts import ask, read_prompts, written
from jaxrl_llm.data.read_examples import read_examples
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.saved import open_model
from tests.test_scorers import scorer
from tests.tiny import Runs

Generate = Callable[..., list[dict]]
USER = ({"role": "user", "content": "ash bay"},)
SYSTEM = ({"role": "system", "content": "Be brief."},)


@pytest.fixture
def generate(runs: Runs, tmp_path: Path) -> Generate:
    def run(*words: object, code: int = 0) -> list[dict]:
        out = tmp_path / "out" / "rows.jsonl"
        out.unlink(missing_ok=True)
        command = ["generate", str(runs("sft")), "--max-new-tokens", "6", "--out", str(out), *map(str, words)]
        assert main(command) == code
        return [json.loads(line) for line in out.read_text().splitlines()] if code == 0 else []

    return run


def file(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_a_prompt(tmp_path: Path) -> None:
    prompts = read_prompts(
        file(
            tmp_path / "p.jsonl",
            {"prompt": "ash\u2028bay", "system": None, "id": 3},
            {"prompt": "ash bay", "system": "Be brief."},
            {"prompt": [*USER]},
            {"messages": [*SYSTEM, *USER]},
            {"instruction": "ash", "input": "bay", "output": "cod"},
        )
    )
    asked = ({"role": "user", "content": "ash\n\nbay"},)
    assert prompts == ["ash\u2028bay", (*SYSTEM, *USER), USER, (*SYSTEM, *USER), asked]
    (tmp_path / "p.txt").write_text("ash bay\n\ncod\n")
    assert read_prompts(tmp_path / "p.txt") == ["ash bay", "", "cod"]


def test_answers_are_labelled_and_trained_on(
    runs: Runs,
    generate: Generate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = file(tmp_path / "p.jsonl", {"messages": [*SYSTEM, *USER]}, {"prompt": "cod dew"}, {"prompt": [*USER]})
    rows = generate("--prompts", prompts, "--n", 2, "--chat", "--temperature", 1.5)
    asked = ({"role": "user", "content": "cod dew"},)
    wanted = [(*SYSTEM, *USER)] * 2 + [asked] * 2 + [USER] * 2
    assert [tuple(row["prompt"]) for row in rows] == wanted
    assert {row["model"] for row in rows} == {str(runs("sft"))}
    candidates = tmp_path / "out" / "rows.jsonl"
    conversations = list(read_examples(ExamplesConfig(path=str(candidates)), "conversation"))
    assert [each.messages[:-1] for each in conversations if isinstance(each, Conversation)] == wanted

    monkeypatch.setattr("sys.stdin", io.StringIO("13\n" * 3))
    assert main(["label", str(candidates), str(tmp_path / "labels.jsonl")]) == 0
    assert "3 labelled (0 ties), 0 skipped, 0 left" in capsys.readouterr().out
    labels = list(read_examples(ExamplesConfig(path=str(tmp_path / "labels.jsonl")), "comparison"))
    assert [each.prompt for each in labels if isinstance(each, Comparison)] == wanted[::2]
    written = {(tuple(row["prompt"][-1].items()), row["completion"]) for row in rows}
    for each in labels:
        assert isinstance(each, Comparison)
        assert {(tuple(each.prompt[-1].items()), answer[0]["content"]) for answer in each.answers} <= written


def test_the_template_is_the_models_own(runs: Runs, generate: Generate) -> None:
    opened = open_model(runs("sft"))
    tokenizer = opened.tokenizer
    assert tokenizer.chat_template == BUNDLED["plain"].read_text()
    for name in (None, "chatml"):
        template = find_template(tokenizer, name)
        (ids,), stop_ids = ask([USER], tokenizer, template)
        assert tokenizer.decode(ids) == template.render(USER, add_generation_prompt=True)
        assert stop_ids == tokenizer.stop_ids
    own, named, other = (
        generate("--prompt", "ash bay", "--chat", "--system", "Be brief.", *more)
        for more in ((), ("--template", "plain"), ("--template", "chatml"))
    )
    assert own == named
    assert own[0]["prompt"] == [*SYSTEM, *USER]
    assert own[0]["logp"] != other[0]["logp"]


def test_an_answer_is_without_its_end(runs: Runs) -> None:
    tokenizer = open_model(runs("sft")).tokenizer

    def text(prompt: Said, ids: bytes, stops: frozenset[int] = tokenizer.stop_ids) -> str:
        return written(prompt, [*ids], tokenizer, stops)

    assert text(USER, b" ash ") == "ash"
    assert text(USER, b" ash#", frozenset(b"#")) == "ash"
    assert text("a", b" ash ") == " ash "


def test_text_is_still_gone_on_with(generate: Generate, tmp_path: Path) -> None:
    rows = generate("--prompts", file(tmp_path / "p.jsonl", {"prompt": "ash "}, {"prompt": "bay "}))
    assert [row["prompt"] for row in rows] == ["ash ", "bay "]


@pytest.mark.parametrize("more", [("--chat",), ()])
def test_the_best_of_several(runs: Runs, generate: Generate, more: tuple[str, ...]) -> None:
    """Those of all that are written to each prompt that the reward model scores highest, of conversations and text."""
    words = ("--prompt", "ash bay", "--prompt", "cod", "--temperature", 1.5, *more)
    every = generate(*words, "--n", 6)
    rows = generate(*words, "--best-of", 6, "--n", 2, "--reward", runs("reward"))
    judge = scorer(runs("reward"))
    asked = [Prompt((), every[at]["prompt"], "a") for at in (0, 6)]
    scores_BN = np.reshape([judge([asked[i // 6]], [row["completion"]])[0] for i, row in enumerate(every)], (2, 6))
    for b, scores_N in enumerate(scores_BN):
        best = sorted(range(6), key=lambda i: -scores_N[i])[:2]
        for row, i in zip(rows[2 * b : 2 * b + 2], best, strict=True):
            assert row.pop("of") == 6
            assert row.pop("score") == pytest.approx(scores_N[i], abs=1e-5)
            assert row == every[6 * b + i]
    assert np.ptp(scores_BN, axis=1).min() > 0.01


def test_scores_are_shown_and_equal_answers_tie(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(runs("sft")), "--prompt", "ash", "--chat", "--max-new-tokens", "4", "--top-k", "1"]
    assert main([*words, "--best-of", "3", "--n", "3", "--reward", str(runs("reward"))]) == 0
    shown = re.findall(r"--- (-?\d+\.\d+), best of 3", capsys.readouterr().out)
    assert len(shown) == 3
    assert len({*shown}) == 1


def test_what_is_refused(runs: Runs, generate: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: object) -> str:
        generate(*words, code=2)
        return capsys.readouterr().err

    def prompts(*rows: dict) -> tuple[str, Path]:
        return "--prompts", file(tmp_path / "p.jsonl", *rows)

    assert "mend: --chat" in refused("--prompt", "a", "--system", "b")
    assert "mend: --chat" in refused("--prompt", "a", "--template", "chatml")
    assert "others text to go on with: 'a'" in refused(*prompts({"prompt": [*USER]}, {"prompt": "a"}))
    ended = [*USER, {"role": "assistant", "content": "cod"}]
    assert "p.jsonl:1: the assistant's turn is the last one already" in refused(*prompts({"messages": ended}))
    for last in (SYSTEM, [{"role": "user", "content": " "}]):
        assert "p.jsonl:1: no user says anything last" in refused(*prompts({"prompt": [*last]}))
    assert "p.jsonl:2: expected `prompt`" in refused(*prompts({"prompt": "a"}, {"text": "a"}))
    assert "`prompt[0].role`: expected one of" in refused(*prompts({"prompt": [{"role": "x", "content": "a"}]}))
    (tmp_path / "p.jsonl").write_text("{")
    assert "p.jsonl:1: not a JSON row" in refused("--prompts", tmp_path / "p.jsonl")
    assert "no such file" in refused("--prompts", tmp_path / "nowhere.jsonl")
    assert "mend: --reward MODEL" in refused("--prompt", "a", "--best-of", 4)
    assert "mend: --best-of 8" in refused("--prompt", "a", "--reward", "somewhere")
    judge = ("--prompt", "a", "--reward", runs("sft"))
    assert "--best-of must be at least 2" in refused(*judge, "--best-of", 1)
    assert "--n 3 is more than the 2 of --best-of" in refused(*judge, "--best-of", 2, "--n", 3)
    assert "at --temperature 0 all are alike" in refused(*judge, "--best-of", 2, "--temperature", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrl_llm.verbs.generate.sample", lambda *_: pytest.fail("sampled"))
        assert "and a reward model is wanted" in refused(*judge, "--best-of", 2)
        assert "nowhere: there is no run" in refused("--prompt", "a", "--best-of", 2, "--reward", tmp_path / "nowhere")
    assert "chat template nothing" in refused("--prompt", "a", "--chat", "--template", "nothing")
