"""Examples of a corpus: its format told and kept to, what is held out, what an algorithm wants, and the real files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Comparison, Conversation, Judgement, Unwanted
from jaxrl_llm.data.read_examples import Want, read_examples, recognised
from jaxrl_llm.errors import UserError

PAIRS = [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(10)]
LABELLED = [{"prompt": "q", "completion": "a", "label": i % 2} for i in range(4)]
ALPACA = [{"instruction": "q", "output": "a"}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path, want: Want = "comparison", part: Any = "train", **config: Any) -> list[Any]:
    return list(read_examples(ExamplesConfig(path=str(path), **config), want, part))


# ---- formats told


def test_the_format_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "id": 7, "safety": None, **PAIRS[0]}])
    assert recognised(ExamplesConfig(path=str(path))) == ("pairs (prompt, chosen, rejected; ignored: question, id)")
    columns = {"prompt": "question"}
    assert recognised(ExamplesConfig(path=str(path), columns=columns)) == (
        "pairs (prompt=question, chosen, rejected; ignored: id)"
    )
    write(tmp_path / "b.jsonl", LABELLED)
    several = recognised(ExamplesConfig(path=str(tmp_path)))
    assert several.startswith("a.jsonl: pairs (prompt, ")
    assert several.endswith("; b.jsonl: labelled (prompt, completion, label)")


def test_columns_are_renamed(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "chosen": "worse", "rejected": "better", "tag": None},
        {"question": "q", "chosen": "b", "rejected": "a", "tag": "x"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    columns = {"prompt": "question", "chosen": "rejected", "rejected": "chosen", "subset": "tag"}
    first, second = read(path, columns=columns)
    assert first.prompt[0]["content"] == "q"
    assert [answer[0]["content"] for answer in first.answers] == ["better", "worse"]
    assert (first.subset, second.subset) == (None, "x")
    with pytest.raises(UserError, match="no format has a column 'promt'\n  mend: one of .*prompt"):
        read(path, columns={"promt": "question"})
    with pytest.raises(UserError, match=r"a\.jsonl:1: no column 'ask', .* for 'prompt'\n  mend: .*question, chosen"):
        read(path, columns={"prompt": "ask"})
    with pytest.raises(UserError, match="gives a column twice"):
        read(path, columns={"prompt": "question", "instruction": "question"})


def test_a_named_format_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LABELLED)
    assert [type(e) for e in read(path, "conversation", format="completion")] == [Conversation] * 4
    with pytest.raises(
        UserError, match=r"a\.jsonl:1: a row of the format pairs \(as data.format says\): expected `chosen`"
    ):
        read(path, format="pairs")


def test_unknown_columns_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(
        UserError, match=r"a\.jsonl:1: no known format has the columns question, answer\n  mend: .*\n.*known are\n"
    ):
        read(path, "conversation")
    assert len(read(path, "conversation", columns={"prompt": "question"})) == 1


def test_the_tag_of_a_corpus_yields_to_that_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [PAIRS[0], {**PAIRS[0], "safety": False}, {**PAIRS[0], "safety": None}])
    assert [e.safety for e in read(path, safety=True)] == [True, False, True]
    assert [e.safety for e in read(path)] == [False, False, False]


# ---- rows of the wrong form


DEVIANT = [PAIRS[0], {"prompt": "q", "chosen": "a"}, PAIRS[1], "{oops", '["x"]', {**PAIRS[2], "chosen": 3}, PAIRS[3]]


def test_the_first_bad_row_stops(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DEVIANT)
    with pytest.raises(
        UserError, match=r"a\.jsonl:2: .*format pairs \(told from .*\): expected `rejected`, .*\n  mend: "
    ):
        read(path)
    with pytest.raises(UserError, match=r"a\.jsonl:2: not a JSON row"):
        read(write(tmp_path / "a.jsonl", [PAIRS[0], "{oops"]))


def test_bad_rows_are_told_and_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["\\", *DEVIANT])
    told: list[tuple[str, Any]] = []
    found = list(
        read_examples(
            ExamplesConfig(path=str(path)), "comparison", reject=lambda error, row: told.append((str(error), row))
        )
    )
    assert [example.origin for example in found] == [f"{path}:{line}" for line in (2, 4, 8)]
    assert [error.split(": ")[0] for error, _ in told] == [f"{path}:{line}" for line in (1, 3, 5, 6, 7)]
    assert told[2][1] == "{oops\n"


def test_a_row_of_another_format_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "label": 1}]
    )
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*completion .*found what tells another one, labelled \(prompt"):
        read(path, "conversation")
    assert len(read(path, "conversation", format="completion")) == 2


def test_pairs_and_rankings_may_be_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [PAIRS[0], {"prompt": "q", "answers": ["a", "b", "c"]}, PAIRS[1]])
    assert [len(example.answers) for example in read(path)] == [2, 3, 2]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: there is no row in it"):
        read(write(tmp_path / "a.jsonl", [" ", ""]))


# ---- what is held out


def test_holdout_is_of_each_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", PAIRS)
    write(tmp_path / "b.jsonl", PAIRS[:5])

    def numbers(part: str, **config: Any) -> list[str]:
        return [example.origin.rpartition("/")[2] for example in read(tmp_path, "comparison", part, **config)]

    assert numbers("holdout", holdout=0.2) == ["a.jsonl:9", "a.jsonl:10", "b.jsonl:5"]
    assert numbers("holdout", holdout_rows=1) == ["a.jsonl:10", "b.jsonl:5"]
    assert len(numbers("train")) == 15
    for config in ({"holdout": 0.2}, {"holdout_rows": 1}):
        both = numbers("train", **config) + numbers("holdout", **config)
        assert sorted(both) == sorted(numbers("train"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "holdout=0.0 of 10 row"),
        ({"holdout_rows": 10}, "holdout_rows=10 of 10 row"),
        ({"holdout": 0.05}, None),
        ({"holdout": 0.9}, None),
        ({"holdout": 0.95}, "leaves no row on one side"),
        ({"holdout": 0.1, "holdout_rows": 1}, "both holdout and holdout_rows"),
    ],
)
def test_an_empty_side_is_refused(tmp_path: Path, config: dict[str, Any], message: str | None) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    if message is None:
        both = [len(read(path, part=part, **config)) for part in ("train", "holdout")]
        assert both == ([1, 9] if config["holdout"] == 0.9 else [9, 1])
    else:
        with pytest.raises(UserError, match=message):
            read(path, part="holdout", **config)


# ---- what is wanted


def said(example: Any) -> list[str]:
    return [message["content"] for message in example.messages]


def test_a_comparison_as_judgements_and_as_a_conversation(tmp_path: Path) -> None:
    row = {"prompt": "q", "answers": ["b", "c", "a"], "ranks": [2, 3, 1], "safety": True, "subset": "x"}
    path = write(tmp_path / "a.jsonl", [row])
    best, worst = read(path, "judgement")
    ask, origin = ({"role": "user", "content": "q"},), f"{path}:1"
    good, bad = (({"role": "assistant", "content": content},) for content in "ac")
    assert best == Judgement(ask, good, True, origin, beside=bad, safety=True, subset="x")
    assert worst == Judgement(ask, bad, False, origin, beside=good, safety=True, subset="x")
    [conversation] = read(path, "conversation")
    assert said(conversation) == ["q", "a"]
    write(path, [{**row, "ranks": [1, 1, 1]}])
    assert read(path)[0].ranks == (0, 0, 0)
    with pytest.raises(UserError, match=r"a\.jsonl:1: all answers tie"):
        read(path, "judgement")


def test_of_a_longer_prompt_the_answer_alone_is_trained_on(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    path = write(tmp_path / "a.jsonl", [{"prompt": turns, "chosen": "yes", "rejected": "no"}])
    assert read(path, "conversation")[0].weights == (0.0, 0.0, 0.0, 1.0)


def test_wanted_answers_as_conversations(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LABELLED)
    assert [e.label for e in read(path, "judgement")] == [False, True, False, True]
    found = read(path, "conversation")
    assert [type(example) for example in found] == [Unwanted, Conversation, Unwanted, Conversation]
    assert [example.origin for example in found] == [f"{path}:{line}" for line in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("rows", "want", "message"),
    [
        (ALPACA, "comparison", "format alpaca are conversations, for algo.kind sft; a comparison is asked for"),
        (ALPACA, "judgement", "a judgement is asked for\n  mend: another algo.kind"),
        (LABELLED, "comparison", "format labelled are answers judged alone, for algo.kind kto"),
    ],
)
def test_what_cannot_be_made_is_refused_for_the_whole_file(
    tmp_path: Path, rows: list[Any], want: Want, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=message):
        list(read_examples(ExamplesConfig(path=str(path)), want, reject=lambda error, row: None))


# ---- the real files


def shapes(examples: list[Any]) -> Counter[int]:
    return Counter(len(example.answers) for example in examples)


def test_real_conversations(shared_data: Path) -> None:
    assert len(read(shared_data / "sft" / "instructions.jsonl", "conversation")) == 990
    path = shared_data / "sft" / "sharegpt_zh.jsonl"
    found = read(path, "conversation")
    assert len(found) == 500
    assert sum(len(example.messages) for example in found) == 4700
    assert Counter(example.messages[-1]["role"] for example in found) == {"assistant": 498, "user": 2}
    odd = {e.origin for e in found for m in e.messages if m["role"] == "assistant" and not m["content"].strip()}
    assert odd == set()


def test_real_hh_dialogues(shared_data: Path) -> None:
    path = shared_data / "preferences" / "hh_harmless.jsonl.gz"
    assert recognised(ExamplesConfig(path=str(path))) == "hh (chosen, rejected)"
    found = read(path)
    assert len(found) == 2000
    assert len(read(path, part="train", holdout_rows=200)) == 1800
    assert all(e.prompt[0]["role"] == e.prompt[-1]["role"] == "user" for e in found)
    assert Counter(tuple(map(len, e.answers)) for e in found) == {(1, 1): 1996, (2, 1): 3, (1, 2): 1}
    empty = [e.origin.rpartition(":")[2] for e in found for (m, *_) in e.answers if not m["content"]]
    assert empty == ["87", "517", "926", "1104"]
    assert not any(e.answers[0] == e.answers[1] for e in found)
    rows = [m["content"] for e in found[:1] for m in e.prompt]
    assert rows[:3] == [
        "what are some pranks with a pen i can do?", "Are you looking for practical joke ideas?", "yep",
    ]  # fmt: skip


def test_real_pairs(shared_data: Path) -> None:
    path = shared_data / "preferences" / "instructions_pairs.jsonl"
    assert recognised(ExamplesConfig(path=str(path))).endswith("; ignored: output)")
    found = read(path)
    same = [e.origin.rpartition(":")[2] for e in found if e.answers[0] == e.answers[1]]
    assert (len(found), same) == (990, ["123", "227", "401", "567", "629", "677"])
    found = read(shared_data / "preferences" / "sharegpt_pairs_en.jsonl")
    assert (len(found), shapes(found)) == (250, {2: 250})
    assert Counter(e.prompt[0]["role"] for e in found) == {"user": 182, "system": 68}


def test_real_rankings(shared_data: Path) -> None:
    found = read(shared_data / "preferences" / "oasst_zh_ranked.jsonl")
    assert len(found) == 675
    assert shapes(found) == {2: 390, 3: 224, 4: 49, 5: 10, 6: 1, 10: 1}
    assert all(e.ranks == tuple(range(len(e.answers))) for e in found)
    assert Counter(len(e.prompt) for e in found) == {1: 336, 3: 320, 5: 19}


def test_a_folder_of_several_formats(shared_data: Path) -> None:
    folder = shared_data / "preferences"
    found = read(folder)
    assert len(found) == 2000 + 990 + 250 + 675
    assert all(isinstance(example, Comparison) for example in found)
    assert len(read(folder, "judgement")) == 2 * len(found)
    assert len(read(folder, "conversation")) == len(found)
