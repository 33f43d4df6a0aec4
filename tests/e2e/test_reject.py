"""`reject` from a config to its data sets and report, continued, chosen anew and iterated; and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jaxrl_llm.cli import main
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Comparison, Conversation
from jaxrl_llm.data.read_examples import read_examples
from jaxrl_llm.reject import draw
from jaxrl_llm.reject.candidates import read_candidates
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from jaxrl_llm.workdir import hold
from tests.test_scorers import scorer
from tests.tiny import Runs

Reject = Callable[..., Path]
TASK = {"kind": "arithmetic", "difficulty": 1}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


@pytest.fixture
def base(runs: Runs) -> dict[str, Any]:
    """What most configs of these tests say."""
    return {
        "prompts": {"path": str(Path(runs("sft")).parent / "asks.jsonl"), "limit": 6},
        "models": {"policy": {"path": str(runs("sft"))}},
        "sampling": {"n": 4, "max_new_tokens": 8, "slots": 8, "prompts": 4},
        "rewards": {"parts": {"likes": {"kind": "model", "path": str(runs("reward"))}}},
        "keep": {"ended": False},
        "pairs": {"kind": "best_worst"},
        "mesh": {"data": 1, "fsdp": 8},
    }


@pytest.fixture
def run(base: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reject:
    """run(name, *overrides, code=0, **sections) -> its directory; with another code, its error."""

    def run(name: str, *words: str, code: int = 0, **sections: Any) -> Any:
        config = {"workdir": str(tmp_path / name)} | base | sections
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
        capsys.readouterr()
        assert main(["reject", str(path), *words]) == code
        error = capsys.readouterr().err
        return tmp_path / name if code == 0 else error

    return run


def test_the_best_by_the_reward_model_and_the_worst(run: Reject, runs: Runs) -> None:
    done = run("one")
    pool, kept, pairs = (read(done / f"{name}.jsonl") for name in ("pool", "sft", "pairs"))
    judge = scorer(runs("reward"))
    assert len(pool) == len(kept) == 6
    for row, best, pair in zip(pool, kept, pairs, strict=True):
        prompt = Prompt((), tuple(row["prompt"]), "row")
        assert row["scores"] == pytest.approx(judge([prompt] * 4, row["answers"]), abs=1e-4)
        usable = [i for i in range(4) if row["answers"][i].strip()]
        top, low = max(usable, key=lambda i: row["scores"][i]), min(usable, key=lambda i: row["scores"][i])
        assert best["prompt"] == row["prompt"]
        assert best["completion"] == row["answers"][top] == pair["chosen"]
        assert pair["rejected"] == row["answers"][low]
        assert pair["chosen_score"] > pair["rejected_score"]
    figures = report(done)
    assert figures["kind"] == "reject"
    assert figures["before"]["score"] == pytest.approx(np.mean([row["scores"] for row in pool]), abs=1e-5)
    assert figures["after"]["score"] == pytest.approx(np.mean([row["score"] for row in kept]), abs=1e-5)
    assert (figures["speed"]["prefills"], figures["speed"]["drawn"]) == (6, 24)
    assert "24 answers to 6 prompts; 6 selected" in (done / "report.md").read_text()
    assert (done / "plots" / "scores.png").is_file()
    rows = read(done / "metrics.jsonl")
    assert [(row["step"], row["answers"], row["of"]) for row in rows] == [(1, 16, 24), (2, 24, 24)]


def test_its_files_are_what_training_and_a_later_run_read(run: Reject) -> None:
    done = run("one")
    chats = [*read_examples(ExamplesConfig(path=str(done / "sft.jsonl")), "conversation")]
    assert len(chats) == 6
    assert all(isinstance(each, Conversation) and each.messages[-1]["role"] == "assistant" for each in chats)
    pairs = [*read_examples(ExamplesConfig(path=str(done / "pairs.jsonl")), "comparison")]
    ranked = [*read_examples(ExamplesConfig(path=str(done / "pool.jsonl")), "comparison")]
    assert (len(pairs), len(ranked)) == (6, 6)
    for pair, ranking, row in zip(pairs, ranked, read(done / "pool.jsonl"), strict=True):
        assert isinstance(pair, Comparison)
        assert isinstance(ranking, Comparison)
        assert pair.ranks == (0, 1)
        assert pair.prompt == ranking.prompt
        assert ranking.ranks[int(np.argmax(row["scores"]))] == 0
    groups = read_candidates(done)
    assert [len(group.answers) for group in groups] == [4] * 6
    assert read_candidates(done / "sft.jsonl")[0].answers[0].score == read(done / "sft.jsonl")[0]["score"]


def test_choosing_anew_draws_nothing_and_a_refused_choice_changes_nothing(
    run: Reject, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("one")
    before = {path: path.stat().st_mtime_ns for path in (done / "samples").rglob("*.jsonl")}
    monkeypatch.setattr(draw, "Sampler", lambda *args, **kwargs: lambda *a, **k: pytest.fail("it sampled"))
    monkeypatch.setattr("jaxrl_llm.reject.work.model_scorer", lambda *a, **k: pytest.fail("it opened a reward model"))
    run("one", "select.n=2", "pairs={kind: none}")
    assert {path: path.stat().st_mtime_ns for path in (done / "samples").rglob("*.jsonl")} == before
    assert len(read(done / "sft.jsonl")) > 6
    assert not (done / "pairs.jsonl").exists()
    assert "n: 2" in (done / "config.yaml").read_text()
    files = {path: path.read_bytes() for path in done.rglob("*") if path.is_file() and path.name != "lock"}
    error = run("one", "select={kind: threshold, least: 1e9}", code=2)
    assert "no answer was accepted" in str(error)
    assert "not selected:" in str(error)
    error = run("one", "sampling.temperature=1.3", "prompts.limit=5", "seed=1", code=2)
    for what in ("sampling.temperature: 1.0 there, 1.3 here", "prompts.limit: 6 there", "seed: 0 there"):
        assert what in str(error)
    assert files == {path: path.read_bytes() for path in done.rglob("*") if path.is_file() and path.name != "lock"}


def test_ctrl_c_and_the_same_command_again(run: Reject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole")
    sampler = draw.Sampler

    def stopping(*args: Any, **kwargs: Any) -> Any:
        made, calls = sampler(*args, **kwargs), []

        def sample(*a: Any, **k: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return made(*a, **k)

        return sample

    with monkeypatch.context() as patch:
        patch.setattr(draw, "Sampler", stopping)
        run("cut", code=130)
    cut = run("cut")
    for name in ("sft.jsonl", "pairs.jsonl", "pool.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert report(cut)["speed"]["drawn"] == 8  # of 24: the rest were there


def test_the_pool_of_two_iterations(run: Reject, base: dict[str, Any]) -> None:
    """Of a prompt that both asked the best of both; and what only the first asked is there too."""
    first = run("first")
    second = run("second", "seed=1", "prompts.limit=4", pool=[str(first)])
    pool = read(second / "pool.jsonl")
    assert [len(row["answers"]) for row in pool] == [8, 8, 8, 8, 4, 4]
    assert pool[0]["models"] == ["policy"] * 4 + ["first/policy"] * 4
    old, kept = read(first / "pool.jsonl"), read(second / "sft.jsonl")
    scores = [[row["scores"][4:] if len(row["scores"]) == 8 else row["scores"]] for row in pool]
    assert np.ravel(scores) == pytest.approx(np.ravel([row["scores"] for row in old]), abs=1e-4)
    for row, best in zip(pool, kept, strict=True):
        assert best["score"] == max(s for s, text in zip(row["scores"], row["answers"], strict=True) if text.strip())
    assert {row["model"] for row in kept} == {"policy", "first/policy"}
    assert {*report(second)["by_model"]} == {"policy", "first/policy"}
    both = run("third", "seed=2", pool=[str(first), str(second)])
    assert [len(row["answers"]) for row in read(both / "pool.jsonl")] == [12, 12, 12, 12, 8, 8]  # and not the old twice


def test_a_task_with_a_grader_the_human_answer_and_rft(run: Reject, tmp_path: Path) -> None:
    """The model knows no answer, so right ones are given from a file; the grader finds them."""
    asks = {"task": TASK, "problems": 4}
    grade = {"parts": {"grade": {"kind": "task"}}}
    rft = {"keep": {"ended": False, "right": True, "equations": True, "distinct": "equations"}}
    more = rft | {"prompts": asks, "rewards": grade, "select": {"kind": "all"}, "pairs": None, "human": True}
    error = run("none", code=2, **more)
    assert "no answer was accepted" in str(error)
    assert "wrong: 16" in str(error)
    assert not (tmp_path / "none" / "sft.jsonl").exists()
    examples = build_task(ArithmeticConfig(difficulty=1)).examples("train", 4, 0)
    right = [f"It is <<{each.value}+0={each.value}>>{each.value}. #### {each.value}" for each in examples]
    slip = [f"It is <<1+1=3>>. #### {each.value}" for each in examples]
    rows = [{"prompt": e.question, "answers": [a, a + " ", b]} for e, a, b in zip(examples, right, slip, strict=True)]
    file = write(tmp_path / "given.jsonl", *rows)
    done = run("rft", candidates=file, **more)
    figures, kept = report(done), read(done / "sft.jsonl")
    assert (figures["selected"], figures["human"], len(kept)) == (4, 4, 8)
    assert [row["model"] for row in kept] == ["human", "given"] * 4
    assert [row["completion"] for row in kept[::2]] == [each.answer for each in examples]
    filters = figures["filters"]
    assert (filters["wrong"], filters["with a wrong equation"], filters["with the same equations"]) == (16, 4, 4)
    assert figures["after"]["accuracy"] == 1.0
    assert figures["before"]["accuracy"] == pytest.approx(3 / 7)
    assert all("human" not in row["models"] for row in read(done / "pool.jsonl"))
    again = run("later", pool=[str(done)], models=None, **(more | {"human": False}))
    assert [row["model"] for row in read(again / "sft.jsonl")] == ["rft/given"] * 4


def test_candidates_alone_and_rows_of_generate(
    run: Reject, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(tmp_path / "made.jsonl")
    words = ["--prompt", "ash bay", "--prompt", "cod", "--chat", "--n", "3", "--max-new-tokens", "8", "--out", made]
    assert main(["generate", str(runs("sft")), *words]) == 0
    path = tmp_path / "given.yaml"
    config = {"workdir": str(tmp_path / "given"), "select": {"kind": "all"}, "keep": {"ended": False}}
    path.write_text(yaml.safe_dump(config))
    assert main(["reject", str(path), "--candidates", made]) == 0  # nothing rates, nobody is asked
    pool = read(tmp_path / "given" / "pool.jsonl")
    assert [len(row["answers"]) for row in pool] == [3, 3]
    assert {*pool[0]["models"]} == {str(runs("sft"))}
    assert "scores" not in pool[0]
    rated = run("rated", models=None, prompts=None, candidates=made, mesh=None)
    assert len(read(rated / "sft.jsonl")) == 2
    assert (rated / "metrics.jsonl").is_file()
    assert "another config" not in str(
        run("rated", "select.n=2", models=None, prompts=None, candidates=made, mesh=None)
    )


def test_several_models_are_told_apart_by_size_and_shots(run: Reject, runs: Runs, base: dict[str, Any]) -> None:
    """The smaller is the shallower; of one size the one with more shots is the better."""
    sft = str(runs("sft"))
    chat = str(Path(sft).parent / "chat.jsonl")
    models = {"bare": {"path": sft, "n": 1}, "shown": {"path": sft, "n": 2, "shots": 1, "examples": chat}}
    done = run("sources", models=models, pairs={"kind": "sources"}, rewards=None, select={"kind": "all"})
    pool, pairs = read(done / "pool.jsonl"), read(done / "pairs.jsonl")
    assert pool[0]["models"] == ["bare", "shown", "shown"]
    assert pairs
    for pair in pairs:
        assert (pair["chosen_model"], pair["rejected_model"]) == ("shown", "bare")
    asked = read(Path(base["prompts"]["path"]))
    assert [row["prompt"] for row in pool] == [row["prompt"] for row in asked[:6]]  # without shots
    run("sources", models=models, pairs={"kind": "sources"}, rewards=None, select={"kind": "all"})
    ranked = {name: model | {"rank": rank} for (name, model), rank in zip(models.items(), (1, 2), strict=True)}
    anew = run("sources", models=ranked, pairs={"kind": "sources"}, rewards=None, select={"kind": "all"})
    assert {pair["chosen_model"] for pair in read(anew / "pairs.jsonl")} == {"bare"}
    same = {name: {"path": sft} for name in ("a", "b")}
    error = run("alike", models=same, pairs={"kind": "sources"}, rewards=None, select={"kind": "all"}, code=2)
    assert "models.NAME.rank=1 is the best" in str(error)


def test_self_play(run: Reject, runs: Runs) -> None:
    user = {"path": str(runs("sft")), "temperature": 1.3}
    play = {"user": user, "turns": 2, "max_new_tokens": 8}
    done = run("play", self_play=play)
    dialogues, pool = read(done / "sft.jsonl"), read(done / "pool.jsonl")
    assert len(dialogues) == 6
    two = [row["messages"] for row in dialogues if len(row["messages"]) == 4]
    assert two
    assert len(pool) == 6 + len(two)
    by_prompt = {json.dumps(row["prompt"]): row for row in pool}
    for row in dialogues:
        messages = row["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant"] * (len(messages) // 2)
        for end in range(1, len(messages), 2):
            asked = by_prompt[json.dumps(messages[:end])]
            usable = [s for s, text in zip(asked["scores"], asked["answers"], strict=True) if text.strip()]
            best = asked["answers"][asked["scores"].index(max(usable))]
            assert messages[end]["content"] == best
    assert report(done)["speed"]["drawn"] == 4 * len(pool)
    assert len([*read_examples(ExamplesConfig(path=str(done / "sft.jsonl")), "conversation")]) == 6
    copies = {name: (done / name).read_bytes() for name in ("sft.jsonl", "pairs.jsonl", "pool.jsonl")}
    run("play", self_play=play)
    assert copies == {name: (done / name).read_bytes() for name in copies}
    error = run("graded", self_play=play, prompts={"task": TASK, "problems": 2}, human=True, code=2)
    assert "what self_play goes on to ask is none" in str(error)


def test_text_is_gone_on_with_and_not_compared(run: Reject, tmp_path: Path) -> None:
    prompts = {"path": str(tmp_path / "p.txt")}
    (tmp_path / "p.txt").write_text("ash bay\ncod\n")
    error = run("text", prompts=prompts, code=2)
    assert "compare answers in conversations" in str(error)
    assert "prompts.chat=true" in str(error)
    done = run("text", prompts=prompts, pairs=None)
    kept, pool = read(done / "sft.jsonl"), read(done / "pool.jsonl")
    assert [row["text"].startswith(row_["prompt"]) for row, row_ in zip(kept, pool, strict=True)] == [True, True]
    assert "train pretrain/CONFIG" in (done / "report.md").read_text()
    mixed = write(tmp_path / "mixed.jsonl", {"prompt": [{"role": "user", "content": "a"}], "answers": ["x"]})
    assert "some prompts are conversations" in str(run("mixed", prompts=prompts, pairs=None, candidates=mixed, code=2))


def test_faults_of_the_config_come_together(run: Reject, runs: Runs) -> None:
    def refused(*words: str, **sections: Any) -> str:
        return str(run("wrong", *words, code=2, **sections))

    assert "1 answer a prompt, and pairs.kind=best_worst compares two" in refused("sampling.n=1")
    assert "leaves nothing to choose" in refused("sampling.n=1", "pairs={kind: none}")
    assert "all answers by policy will be alike" in refused("sampling.temperature=0.0")
    assert "nothing rates the answers" in refused(rewards=None)
    assert "is the grade of a task" in refused(rewards={"parts": {"grade": {"kind": "task"}}})
    assert "who knows what is right?" in refused("keep.right=true")
    assert "is the worked answer of a task" in refused("human=true")
    assert "kep: unknown key, did you mean keep?" in refused(kep={"ended": True})
    assert "nobody answers" in refused(models=None)
    assert "a tournament pairs the selected" in refused("pairs={kind: tournament}")
    several = refused("human=true", "keep.right=true", models=None)
    assert several.count("\n  ") == 3
    assert "is this run itself" in refused(pool=[str(runs.folder / "x")], workdir=str(runs.folder / "x"))
    assert "wrong.yaml:" in several


def test_models_that_do_not_fit_are_refused_before_anything_is_drawn(run: Reject, runs: Runs, tmp_path: Path) -> None:
    def refused(*words: str, **sections: Any) -> str:
        error = str(run("wrong", *words, code=2, **sections))
        assert not (tmp_path / "wrong" / "samples").exists()
        return error

    judge, writer = str(runs("reward")), str(runs("sft"))
    assert "models.policy: " in refused(models={"policy": {"path": judge}})
    assert "which does not write" in refused(models={"policy": {"path": judge}})
    error = refused(rewards={"parts": {"likes": {"kind": "model", "path": writer}}})
    assert error.startswith("error: rewards.parts.likes: ")
    assert "a reward model is wanted" in error
    assert "there is no run" in refused(models={"policy": {"path": str(tmp_path / "nowhere")}})
    assert "self_play.user: " in refused(self_play={"user": {"path": judge}})
    assert "asks.jsonl:" in refused("sampling.max_new_tokens=120")
    assert "prompts.overlong=drop" in refused("sampling.max_new_tokens=120")
    assert "none of the 6 prompts has at most 0 tokens" in refused(
        "sampling.max_new_tokens=128", "prompts.overlong=drop"
    )


def test_another_tokenizer_has_to_be_allowed(run: Reject, runs: Runs, tmp_path: Path, shared_data: Path) -> None:
    other = {"policy": {"path": str(shared_data / "stories260k")}}
    assert "this reward model has another tokenizer" in str(run("other", models=other, code=2))


def test_files_of_candidates_that_are_none(run: Reject, tmp_path: Path) -> None:
    def refused(*rows: object) -> str:
        error = str(run("wrong", candidates=write(tmp_path / "c.jsonl", *rows), models=None, prompts=None, code=2))
        assert not (tmp_path / "wrong").exists()
        return error

    assert "c.jsonl" in refused()
    assert "c.jsonl:2: " in refused({"prompt": "a", "answers": ["b"]}, {"prompt": "a"})
    assert "c.jsonl:1: `scores`" in refused({"prompt": "a", "answers": ["b", "c"], "scores": [1.0]})
    error = str(run("wrong", candidates=str(tmp_path / "nowhere"), models=None, code=2))
    assert "no such file" in error
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "the directory of a `reject` run" in str(run("wrong", pool=[str(folder)], code=2))
    one = write(tmp_path / "one.jsonl", {"prompt": [{"role": "user", "content": "a"}], "answers": ["b"]})
    assert "fewer than two answers: 1" in str(run("few", candidates=one, models=None, prompts=None, code=2))
    same = write(tmp_path / "same.jsonl", {"prompt": [{"role": "user", "content": "a"}], "answers": ["b", "b"]})
    assert "all answers read the same: 1" in str(run("same", candidates=same, models=None, prompts=None, code=2))


def test_a_directory_that_is_anothers(run: Reject, runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs("sft"), tmp_path / "taken")
    before = (tmp_path / "taken" / "config.yaml").read_bytes()
    assert "is the directory of something else" in str(run("taken", code=2))
    assert (tmp_path / "taken" / "config.yaml").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "holds files but no run" in str(run("full", code=2))
    done = run("one")
    lock = hold(done)
    assert f"process {os.getpid()} on " in str(run("one", code=2))
    lock.close()
    train = runs.config("sft", tmp_path / "t.yaml")
    assert main(["train", str(train), f"workdir={done}"]) == 2
