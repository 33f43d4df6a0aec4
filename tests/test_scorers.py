"""What rates answers: the grader of a task, and a reward model that reads the text itself, up to its last token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxrl_llm import scorers
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.tokenizers import BytesTokenizer, Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import RowScorer, reward_scorer, tokenize_answer
from jaxrl_llm.models import ComputeConfig, build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.saved import find_model, open_model
from jaxrl_llm.scorers import check_reward_model, in_compute_dtype, model_scorer, read, task_scorer
from jaxrl_llm.tasks import build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from jaxrl_llm.types import Model
from tests.tiny import Runs

ONE = make_mesh(MeshConfig(), jax.devices()[:1])
BYTES = BytesTokenizer()
TEXTS = ["ash bay", "oak", "", "gnu hay ivy jay kid low mud nut oak", "oak!", "ash bay"]


class Renamed(BytesTokenizer):
    """Another tokenizer, as far as anyone can tell."""

    fingerprint = "another"


def asked(*said: str) -> list[Prompt]:
    return [Prompt((1,), ({"role": "user", "content": text},), f"p.jsonl:{i}") for i, text in enumerate(said, 1)]


PROMPTS = asked("ash", "elm fig", "ash", "cod dew", "elm fig", "ash")


def scorer(path: Path, mesh: Mesh = ONE, policy: Tokenizer = BYTES, size: int = 4, **more: Any) -> Scorer:
    here = {name: more.pop(name) for name in ("longest", "warn") if name in more}
    return model_scorer(
        ModelRewardConfig(path=str(path), **more), mesh, batch_size=size, policy_tokenizer=policy, **here
    )


def test_a_score_is_that_of_the_answers_end_alone(runs: Runs) -> None:
    """Whatever is scored with it, however far its row is filled up, and on however many devices."""
    opened = open_model(runs("reward"), ONE, head="scalar")
    template, score = find_template(opened.tokenizer), jax.jit(opened.model.score)
    expected = []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        answer = ({"role": "assistant", "content": text},)
        ids = tokenize_answer(prompt.said, answer, opened.tokenizer, template).ids  # type: ignore[arg-type]
        assert ids[-1] == BYTES.eos_id
        expected.append(float(score(opened.params, ids[None], np.asarray([len(ids)]))[0]))
    found = scorer(runs("reward"))(PROMPTS, TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.std(found) > 1e-3
    assert (found != np.round(found)).all()  # fractions survive
    assert found[0] == found[5]
    for size, mesh in ((1, ONE), (4, make_mesh(MeshConfig(data=2)))):
        again = scorer(runs("reward"), mesh, size=size)
        np.testing.assert_allclose(again(PROMPTS[3:], TEXTS[3:]), expected[3:], rtol=0, atol=1e-5)


def test_the_scale_is_the_one_stored_with_the_model(runs: Runs) -> None:
    scale = open_model(runs("reward"), head="scalar").card.score
    assert scale is not None
    raw, centred, standardised = (
        scorer(runs("reward"), scale=how)(PROMPTS, TEXTS) for how in ("raw", "centred", "standardised")
    )
    np.testing.assert_allclose(centred, raw - scale.mean, atol=1e-5)
    np.testing.assert_allclose(standardised, (raw - scale.mean) / scale.std, rtol=1e-4, atol=1e-4)


def test_every_round_runs_the_same_few_programs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[tuple[int, ...]] = []

    def counting(model: Model) -> RowScorer:
        rows = reward_scorer(model)
        return lambda params, tokens_BT, *rest: traced.append(tokens_BT.shape) or rows(params, tokens_BT, *rest)

    monkeypatch.setattr(scorers, "reward_scorer", counting)
    score = scorer(runs("reward"), longest=80)
    for times in (1, 2, 1, 4, 2, 3):
        score(PROMPTS[:times], [text * times for text in TEXTS[:times]])
    score(PROMPTS[:1], ["ash bay " * 9])
    score(PROMPTS[:2], ["ash bay " * 30, "ash"])
    assert traced == [(4, 64), (4, 128)]


def test_another_tokenizer_is_refused_or_given_the_text(runs: Runs) -> None:
    with pytest.raises(UserError, match=r"another tokenizer .*\n  mend: retokenise=true"):
        scorer(runs("reward"), policy=Renamed())
    found = scorer(runs("reward"), policy=Renamed(), retokenise=True)(PROMPTS, TEXTS)
    assert found.tolist() == scorer(runs("reward"))(PROMPTS, TEXTS).tolist()


def test_what_is_no_reward_model_is_refused(runs: Runs) -> None:
    with pytest.raises(UserError, match="holds a language model, and a reward model is wanted"):
        scorer(runs("sft"))
    with pytest.raises(UserError, match="nowhere: there is no run"):
        scorer(Path("nowhere"))
    with pytest.raises(UserError, match="mesh.tensor=8 does not divide model.n_heads=4"):
        scorer(runs("reward"), make_mesh(MeshConfig(tensor=8)))
    bare = replace(find_model(runs("reward")), card=replace(find_model(runs("reward")).card, score=None))
    check_reward_model(ModelRewardConfig(path="here"), bare, BYTES)
    with pytest.raises(UserError, match=r"here: scale=centred, .* is not stored with it"):
        check_reward_model(ModelRewardConfig(path="here", scale="centred"), bare, BYTES)
    critic = replace(bare, card=replace(bare.card, heads={"policy": "lm", "value": "scalar"}))
    with pytest.raises(UserError, match="holds a language model and a critic, and a reward model is wanted"):
        check_reward_model(ModelRewardConfig(path="here"), critic, BYTES)


def test_what_is_longer_than_the_context_is_cut_and_counted(runs: Runs) -> None:
    """As for training: the prompt at its start.  Said at the first, and each time there are twice as many."""
    said: list[str] = []
    score = scorer(runs("reward"), warn=said.append)
    long = asked("ash bay cod " * 20)
    first = score(long, ["oak"])[0]
    assert first == score(asked("cod dew " * 20 + "ash bay cod " * 14), ["oak"])[0]
    score(long * 3, ["oak", "elm", "fig"])
    score(PROMPTS, TEXTS)
    assert score(long, ["oak"])[0] == first
    assert [text.partition(" answers")[0] for text in said] == ["1 of 1", "2 of 2", "5 of 5"]
    assert f"the 128 tokens that the reward model {runs('reward')} reads" in said[0]


def test_text_that_was_gone_on_with_is_one_document() -> None:
    template = find_template(BYTES)
    found = read(Prompt((1,), "ash ", "p.txt:1"), "bay", BYTES, template)
    assert found.ids.tolist() == BYTES.encode_document("ash bay")
    assert found.ids[found.written].tolist() == [*b"bay", BYTES.eos_id]
    assert found.n_prompt == 5
    nothing = read(Prompt((1,), "", "p.txt:1"), "", BYTES, template)
    assert nothing.ids.tolist() == [BYTES.bos_id, BYTES.eos_id]
    refused = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
    with pytest.raises(UserError, match="p.jsonl:7, answered 'c': "):
        read(Prompt((1,), refused, "p.jsonl:7"), "c", BYTES, find_template(BYTES, "llama2"))


def test_weights_are_kept_as_they_are_used(runs: Runs) -> None:
    opened = open_model(runs("reward"), ONE, head="scalar")
    half = replace(opened, config=replace(opened.config, compute=ComputeConfig(dtype="bfloat16")))
    kept = in_compute_dtype(half.model, half.params, half.config.compute)
    assert kept["layers"]["wq"].dtype == kept["embed"].dtype == kept["score"].dtype == "bfloat16"
    assert kept["final_norm"].dtype == "float32"
    model = build_model(half.config.model, half.config.compute, ONE, "scalar")
    ids, lengths = np.arange(1, 25).reshape(2, 12), np.asarray([12, 5])
    whole, small = (jax.jit(model.score)(params, ids, lengths) for params in (opened.params, kept))
    assert np.asarray(whole).tolist() == np.asarray(small).tolist()


def test_a_grader_compares_with_the_problems_own_answer() -> None:
    task = build_task(ArithmeticConfig(difficulty=1))
    examples = task.examples("test", 3, 5)
    problems = [Prompt((1,), each.prompt, each.origin, example=each) for each in examples]
    assert task_scorer(task)(problems, [each.answer for each in examples]).tolist() == [1, 1, 1]
    found = task_scorer(task)(problems, [f"#### {examples[1].value}"] * 2 + ["none"])
    assert found.tolist() == [float(examples[0].value == examples[1].value), 1, 0]
    assert found.dtype == np.float32
    with pytest.raises(UserError, match=r"p.jsonl:2: the prompt is no problem of a task"):
        task_scorer(task)([problems[0], asked("a", "b")[1]], ["", ""])
    broken = replace(task, grade=lambda text, example: float("nan") if text else 0.5)
    assert task_scorer(broken)(problems, ["", "", ""]).tolist() == [0.5] * 3
    with pytest.raises(UserError, match=r"(?s)the grader of arithmetic gave nan.*row 1, arithmetic test problem 1 of"):
        task_scorer(broken)(problems, ["", "x", ""])
