"""Which format a row is in, what each one means, and what a row of the wrong form is told."""

import inspect
import json
from typing import Any

import pytest

from jaxrl_llm.data.examples import Comparison, Conversation, Judgement
from jaxrl_llm.data.row_formats import FORMATS, recognise
from jaxrl_llm.errors import UserError

Row = dict[str, Any]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def read(row: Row, name: str | None = None) -> Any:
    form = recognise(row)
    assert form is not None
    assert name is None or form.name == name
    return form.read(row, "a:1")


ASK, YES, NO = (user("2+2?"),), (bot("4"),), (bot("5"),)


# ---- recognition


SHOWN = [
    (name, line)
    for name, form in FORMATS.items()
    for line in (inspect.getdoc(form.reader) or "").splitlines()
    if line.startswith("{")
]


@pytest.mark.parametrize(("name", "line"), SHOWN)
def test_the_row_in_a_docstring_is_of_its_format(name: str, line: str) -> None:
    row = json.loads(line)
    assert isinstance(read(row, name), FORMATS[name].gives)
    assert set(FORMATS[name].columns(row)) == set(row)


def test_every_format_shows_a_row() -> None:
    assert {name for name, _ in SHOWN} == set(FORMATS)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("prompt prompt_id messages chosen rejected score_chosen", "pairs"),
        ("instruction input output chosen rejected", "pairs"),
        ("instruction output scores", "alpaca"),
        ("instruction output label", "labelled"),
        ("prompt response id", "completion"),
        ("prompt answer answers", "ranked"),
        ("question answer", None),
        ("prompt", None),
        ("chosen", None),
    ],
)
def test_columns_tell_the_format(columns: str, name: str | None) -> None:
    form = recognise(dict.fromkeys(columns.split(), "x"))
    assert (form and form.name) == name


# ---- conversations


def test_messages_and_their_weights() -> None:
    said = [system("Rhyme."), user("Hi"), {**bot("Hm"), "weight": 0}, user("So?"), {**bot("Why"), "weight": 0.5}]
    expected = (system("Rhyme."), user("Hi"), bot("Hm"), user("So?"), bot("Why"))
    assert read({"messages": said}) == Conversation(expected, (1.0, 1.0, 0.0, 1.0, 0.5), "a:1")
    assert read({"messages": [user("Hi"), bot("Hm")]}).weights is None
    found = read({"messages": said[1:], "system": "Rhyme."})
    assert (found.messages, found.weights) == (expected, (1.0, 1.0, 0.0, 1.0, 0.5))


def test_sharegpt_roles() -> None:
    said = [{"from": role, "value": role} for role in ("system", "human", "gpt", "user", "assistant")]
    assert [m["role"] for m in read({"conversations": said}).messages] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip


def test_alpaca() -> None:
    row = {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["Hi!", "Hello."]], "system": "Be brief."}
    expected = (system("Be brief."), user("Hi!"), bot("Hello."), user("Add.\n\n2+2"), bot("4"))
    assert read(row) == Conversation(expected, None, "a:1")
    bare = read({"instruction": "2+2?", "input": " ", "output": "4", "history": [], "system": ""})
    assert bare.messages == (*ASK, *YES)


def test_a_completion_alone_is_trained_on() -> None:
    earlier = [user("Hi"), bot("Hm"), *ASK]
    expected = Conversation((*earlier, *YES), (0.0, 0.0, 0.0, 1.0), "a:1")
    assert read({"prompt": earlier, "completion": "4"}) == expected
    assert read({"prompt": earlier, "completion": [*earlier, *YES]}) == expected
    assert read({"prompt": "2+2?", "response": "4"}) == Conversation((*ASK, *YES), None, "a:1")


# ---- comparisons


SHAREGPT = {"from": "gpt", "value": "4"}
SAME = Comparison(ASK, (YES, NO), (0, 1), "a:1")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": list(ASK), "chosen": list(YES), "rejected": NO[0]},
        {"prompt": "2+2?", "chosen": [*ASK, *YES], "rejected": [*ASK, *NO]},
        {"chosen": [*ASK, *YES], "rejected": [*ASK, *NO]},
        {"instruction": "2+2?", "input": "", "output": "4", "chosen": "4", "rejected": "5"},
        {"conversations": [{"from": "human", "value": "2+2?"}], "chosen": SHAREGPT, "rejected": "5"},
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2? \n\nAssistant:  5\n"},
        {"prompt": "2+2?", "answers": ["4", "5"]},
        {"prompt": "2+2?", "answers": ["4", "5"], "ranks": [1, 7]},
        {"prompt": "2+2?", "responses": ["4", "5"], "scores": [0.5, -1]},
        {"instruction": "2+2?", "output": ["4", "5"], "ratings": [5, 3]},
    ],
)
def test_one_pair_in_many_spellings(row: Row) -> None:
    assert read(row) == SAME


def test_what_may_stand_beside_a_pair() -> None:
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 2, "rating": "Negligibly better / unsure"}
    found = read({**row, "safety": True, "safe": [True, None], "subset": "sums", "system": "Be brief."})
    prompt = (system("Be brief."), *ASK)
    assert found == Comparison(
        prompt, (YES, NO), (0, 1), "a:1", margin=2.0, rating=0, safety=True, safe=(True, None), subset="sums"
    )
    assert [read({**row, "rating": rating}).rating for rating in (3, "significantly better", "better", 1)] == [
        3,
        3,
        2,
        1,
    ]


def test_ranks_and_scores() -> None:
    three = {"prompt": "2+2?", "answers": ["4", "5", "6"]}
    assert read(three).ranks == (0, 1, 2)
    assert read({**three, "ranks": [3, 1, 3]}).ranks == (1, 0, 1)
    assert read({**three, "ranks": [1, 1, 3]}).ranks == (0, 0, 1)
    assert read({**three, "scores": [1, 2.5, 1.0]}).ranks == (1, 0, 1)
    assert read({**three, "scores": [1, 1, 1]}).ranks == (0, 0, 0)


def dialogue(*turns: dict[str, str]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)


Q, A, B, C = user("q"), bot("a"), bot("b"), bot("c")


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ([Q, A, Q, B], [Q, A, Q, C], [Q, A, Q]),
        ([Q, A, Q, B], [Q, B, Q, B], [Q]),  # several turns
        ([Q, A, user("r"), B], [Q, A, user("s"), B], [Q]),  # they part at a question, which is no answer
        ([Q, A, B], [Q, A, C], [Q]),  # the assistant spoke twice
        ([Q, A, B], [Q, A], [Q]),
        ([Q, A], [Q, A], [Q]),  # the same
        ([A, Q, B], [A, Q, C], [A, Q]),  # the assistant began
    ],
)
def test_what_dialogues_have_in_common_is_their_prompt(
    chosen: list[Any], rejected: list[Any], prompt: list[Any], as_text: bool
) -> None:
    row = (
        {"chosen": dialogue(*chosen), "rejected": dialogue(*rejected)}
        if as_text
        else {"chosen": chosen, "rejected": rejected}
    )
    found = read(row, "hh" if as_text else "pairs")
    n = len(prompt)
    assert (list(found.prompt), [list(a) for a in found.answers]) == (prompt, [chosen[n:], rejected[n:]])


def test_a_line_that_only_looks_like_a_turn() -> None:
    found = read(
        {"chosen": "\n\nHuman: q\n\nAssistant: say\nHuman: no  Human: x", "rejected": "\n\nHuman: q\n\nAssistant:"}
    )
    assert found.answers == ((bot("say\nHuman: no  Human: x"),), (bot(""),))


# ---- judgements


def test_labelled() -> None:
    expected = Judgement(ASK, YES, True, "a:1", subset="sums")
    assert read({"prompt": "2+2?", "completion": "4", "label": True, "subset": "sums"}) == expected
    assert read({"instruction": "2+2?", "output": "4", "label": 1, "subset": "sums"}) == expected
    assert read({"messages": [*ASK, *YES], "label": 1, "subset": "sums"}) == expected
    assert read({"prompt": "2+2?", "answer": "4", "label": 0}).label is False


# ---- rows of the wrong form


PAIR = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
RANKED = {"prompt": "2+2?", "answers": ["4", "5"]}
JUDGED = {"prompt": "2+2?", "completion": "4", "label": True}
BAD: list[tuple[str, Row, str]] = [
    ("pairs", {"prompt": "a", "chosen": "b"}, "expected `rejected`, found `prompt`, `chosen`"),
    ("messages", {}, "expected `messages`, found no column"),
    ("messages", {"messages": []}, r"`messages`: expected a string, a message or a list of messages, found \[\]"),
    (
        "messages",
        {"messages": [{"role": "tool", "content": "x"}]},
        r"`messages\[0\].role`: expected one of system, user, .*, found \"tool\"",
    ),
    (
        "messages",
        {"messages": [*ASK, {"role": "assistant"}]},
        r"`messages\[1\]`: expected a message, .* found {\"role\": \"assistant\"}",
    ),
    (
        "messages",
        {"messages": [*ASK, {"role": "assistant", "content": None}]},
        r"`messages\[1\].content`: expected a string, found null",
    ),
    ("messages", {"messages": [["user", "Hi"]]}, r"`messages\[0\]`: expected a message"),
    ("messages", {"messages": [*ASK]}, "expected a turn of the assistant; found user"),
    (
        "messages",
        {"messages": [*ASK, {**YES[0], "weight": True}]},
        r"`messages\[1\].weight`: expected a number of at least 0, found true",
    ),
    (
        "messages",
        {"messages": [system("a"), *ASK, *YES], "system": "b"},
        "`system`: expected nothing, since `messages` has",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "a\ud800"}]},
        r"`conversations\[0\].value`: half of a surrogate",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": 4},
        "`output`: expected a string, a message or a list of messages, found 4",
    ),
    ("alpaca", {"instruction": ["a"], "output": "b"}, r"`instruction`: expected a string, found \[\"a\"\]"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": ["c"]},
        r"`history`: expected a list of \[question, answer\]",
    ),
    (
        "completion",
        {"prompt": "a", "completion": [*ASK]},
        "expected after the prompt an answer, assistant's .* found user",
    ),
    ("completion", {"prompt": [*ASK, *YES], "completion": "4"}, "a user's turn last; found user, assistant"),
    ("pairs", {**PAIR, "chosen": {"a": 1}}, "`chosen.*a message"),
    (
        "pairs",
        {**PAIR, "chosen": [user("other"), *YES]},
        "expected after the prompt an answer, .* found user, assistant",
    ),
    (
        "pairs",
        {"chosen": [user("a"), *YES], "rejected": [user("b"), *NO]},
        "expected a prompt, the same for all answers, .* found no turn",
    ),
    ("pairs", {"chosen": [*ASK, *YES], "rejected": [*ASK]}, "expected after the prompt an answer, .* found no turn"),
    ("pairs", {**PAIR, "margin": "2"}, '`margin`: expected a number of at least 0, found "2"'),
    ("pairs", {**PAIR, "margin": -1}, "`margin`: expected a number of at least 0, found -1"),
    ("pairs", {**PAIR, "margin": float("nan")}, "`margin`: expected a number of at least 0, found NaN"),
    ("pairs", {**PAIR, "rating": 4}, "`rating`: expected one of 3, 'significantly better', .* found 4"),
    ("pairs", {**PAIR, "rating": "bad"}, '`rating`: expected one of .* found "bad"'),
    ("pairs", {**PAIR, "safe": [True]}, r"`safe`: expected a list of 2, one for each answer, found \[true\]"),
    ("pairs", {**PAIR, "safe": ["yes", "no"]}, r"`safe\[0\]`: expected true, false, 1 or 0, found \"yes\""),
    ("pairs", {**PAIR, "safety": "high"}, '`safety`: expected true, false, 1 or 0, found "high"'),
    ("pairs", {**PAIR, "subset": 3}, "`subset`: expected a string, found 3"),
    ("hh", {"chosen": "hello there", "rejected": "b"}, r"`chosen`: expected a dialogue, .* found \"hello there\""),
    ("hh", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}, "found no turn"),
    ("hh", {"chosen": "\n\nAssistant: b", "rejected": "\n\nAssistant: c"}, "expected a prompt"),
    ("ranked", {**RANKED, "answers": ["4"]}, r"`answers`: expected a list of two answers or more, found \[\"4\"\]"),
    ("ranked", {**RANKED, "answers": "4"}, '`answers`: expected a list of two answers or more, found "4"'),
    ("ranked", {**RANKED, "answers": ["4", 5]}, r"`answers\[1\]`: expected a string, .* found 5"),
    ("ranked", {**RANKED, "ranks": [1]}, r"`ranks`: expected a list of 2 numbers, one for each answer, found \[1\]"),
    ("scored", {**RANKED, "scores": [1, None]}, r"`scores\[1\]`: expected a number, found null"),
    ("scored", {**RANKED, "scores": [1, True]}, r"`scores\[1\]`: expected a number, found true"),
    ("labelled", {**JUDGED, "label": "good"}, '`label`: expected true, false, 1 or 0, found "good"'),
    ("labelled", {**JUDGED, "label": 2}, "`label`: expected true, false, 1 or 0, found 2"),
    ("labelled", {**JUDGED, "label": 0.5}, "`label`: expected true, false, 1 or 0, found 0.5"),
    ("labelled", {"messages": [*ASK], "label": 1}, "expected after the prompt an answer"),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD)
def test_a_row_of_the_wrong_form(name: str, row: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FORMATS[name].read(row, "a:1")


def test_what_is_right_in_form_is_left_to_be_counted() -> None:
    assert read({**PAIR, "rejected": "4"}).answers == (YES, YES)
    assert read({**PAIR, "chosen": ""}).answers[0] == (bot(""),)
    assert read({"instruction": "a", "output": ""}).messages[-1] == bot("")


def test_a_system_prompt_beside_whole_dialogues() -> None:
    row = {"system": "Be brief.", "chosen": [*ASK, *YES], "rejected": [*ASK, *NO]}
    assert read(row, "pairs").prompt == (system("Be brief."), *ASK)
    with pytest.raises(UserError, match="has a system message"):
        read({**row, "chosen": [system("x"), *ASK, *YES], "rejected": [system("x"), *ASK, *NO]})


def test_a_completion_may_state_weights() -> None:
    half = {**bot("4"), "weight": 0.5}
    assert read({"prompt": "2+2?", "completion": [half]}).weights == (0.0, 0.5)
    assert read({"prompt": [*ASK], "completion": [*ASK, half]}).weights == (0.0, 0.5)


@pytest.mark.parametrize("number", [10**400, 1e39])
def test_numbers_that_float32_does_not_have(number: float) -> None:
    with pytest.raises(UserError, match="`margin`: expected a number"):
        read({"prompt": "a", "chosen": "b", "rejected": "c", "margin": number})
