"""Drawing: chunks are files, a run that was cut short writes what an undisturbed one writes, a prompt is run once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from jaxrl_llm.data.chat import find_template
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import MeshConfig
from jaxrl_llm.reject.config import QuestionsConfig, SourceConfig
from jaxrl_llm.reject.draw import NOTHING, Chunk, Draw, chunk_seed, make_draw
from jaxrl_llm.reject.questions import as_read, open_questions, open_shots, with_shots
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.saved import Opened, find_model, open_model
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig
from tests.tiny import Runs

N, CHUNK = 3, 4


@pytest.fixture(scope="module")
def opened(runs: Runs) -> Opened:
    return open_model(runs("sft"), MeshConfig(data=1, fsdp=8))


@pytest.fixture(scope="module")
def prompts(runs: Runs, opened: Opened) -> list[Prompt | None]:
    """Ten, the third of which was too long."""
    runs("sft")
    asked = open_questions(QuestionsConfig(path=str(runs.folder / "asks.jsonl"), limit=10))
    template = find_template(opened.tokenizer, None)
    found, _ = as_read(asked, opened.tokenizer, template, [], n_shots=0, longest=99, overlong="stop")
    return [*found[:2], None, *found[3:]]


def drawing(opened: Opened, prompts: Sequence[Prompt | None], folder: Path, seed: int = 0) -> Draw:
    return make_draw(
        opened,
        prompts,
        SamplingConfig(),
        stop_ids=frozenset({257, 258}),
        n=N,
        max_new_tokens=6,
        slots=4,
        chunk=CHUNK,
        seed=(seed, "policy"),
        folder=folder,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_cut_short_anywhere_it_writes_what_it_would_have_written(
    opened: Opened, prompts: list[Prompt | None], tmp_path: Path
) -> None:
    advanced: list[int] = []
    whole = [*drawing(opened, prompts, tmp_path / "whole")(advanced.append)]
    assert [len(chunk.drawn) for chunk in whole] == [4, 4, 2]
    assert [chunk.prefills for chunk in whole] == [3, 4, 2]  # each prompt once, whatever N is
    assert sum(advanced) == sum(chunk.answers for chunk in whole) == 9 * N
    assert whole[0].drawn[2] == NOTHING
    assert len({text for chunk in whole for each in chunk.drawn for text in each.texts}) > 9
    assert any(not ended for chunk in whole for each in chunk.drawn for ended in each.ended)
    for each in (each for chunk in whole for each in chunk.drawn):
        assert [tokens == 6 or ended for tokens, ended in zip(each.tokens, each.ended, strict=True)] == [True] * len(
            each.texts
        )

    def interrupted(n: int) -> None:
        if advanced:
            raise KeyboardInterrupt
        advanced.append(n)

    cut = tmp_path / "cut"
    next(drawing(opened, prompts, cut)(lambda n: None))  # killed between two chunks
    assert files(cut) == {"00000.jsonl": files(tmp_path / "whole")["00000.jsonl"]}
    advanced.clear()
    with pytest.raises(KeyboardInterrupt):  # and amid the second
        [*drawing(opened, prompts, cut)(interrupted)]
    assert len(files(cut)) == 1
    again: list[Chunk] = [*drawing(opened, prompts, cut)(lambda n: None)]
    assert files(cut) == files(tmp_path / "whole")
    assert [chunk.drawn for chunk in again] == [chunk.drawn for chunk in whole]
    assert [chunk.seconds > 0 for chunk in again] == [False, True, True]


def test_other_seeds_words_and_chunks_are_other_answers(
    opened: Opened, prompts: list[Prompt | None], tmp_path: Path
) -> None:
    numbers = [chunk_seed(*each) for each in ((0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0))]
    assert len({*numbers}) == 4
    first, second = (next(drawing(opened, prompts, tmp_path / str(seed), seed)(lambda n: None)) for seed in (0, 1))
    assert first.drawn != second.drawn


def test_a_prompt_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("b\na\nb\n")
    assert [each.said for each in open_questions(QuestionsConfig(path=str(path)))] == ["b", "a"]
    said = open_questions(QuestionsConfig(path=str(path), chat=True, limit=1))
    assert [each.said for each in said] == [({"role": "user", "content": "b"},)]


def test_shots_are_read_and_never_the_answer_to_the_question_itself(runs: Runs) -> None:
    task = QuestionsConfig(task=ArithmeticConfig(difficulty=1), problems=4)
    asked = open_questions(task)
    source = SourceConfig(path="x", shots=2)
    shots = open_shots(source, task)
    assert len(shots) == 3
    assert [message["role"] for message in shots[0]] == ["user", "assistant"]
    tokenizer = find_model(runs("sft")).card.tokenizer
    template = find_template(tokenizer, None)
    bare, shown = (
        as_read(asked, tokenizer, template, shots, n_shots=n, longest=10_000, overlong="stop")[0] for n in (0, 2)
    )
    for short, long in zip(bare, shown, strict=True):
        assert short is not None
        assert long is not None
        assert long.said == short.said  # what is rated and written has none
        text = tokenizer.decode(long.ids)
        assert all(shot[1]["content"] in text for shot in shots[:2])
        assert shots[2][0]["content"] not in text
        assert tokenizer.decode(short.ids)[-40:] == text[-40:]
    itself = with_shots(shots[0][:1], shots, 2)
    assert [*itself] == [*shots[1], *shots[2], shots[0][0]]
    system = {"role": "system", "content": "Be brief."}
    assert with_shots([system, *asked[0].said], [[system, *shots[0]]], 1)[0] == system  # type: ignore[list-item]
    assert with_shots([system, *asked[0].said], [[system, *shots[0]]], 1)[1] == shots[0][0]  # type: ignore[list-item]


def test_shots_of_a_file(runs: Runs, tmp_path: Path) -> None:
    runs("sft")
    file = str(runs.folder / "chat.jsonl")
    source = SourceConfig(path="x", shots=2, examples=file)
    assert len(open_shots(source, QuestionsConfig(path="p"))) == 3
    with pytest.raises(UserError, match="99 shots are asked for, and it has 48 examples"):
        open_shots(replace(source, shots=99), QuestionsConfig(path="p"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="bad.jsonl"):
        open_shots(replace(source, examples=str(bad)), QuestionsConfig(path="p"))
