"""Rows and examples as a person sees them: colours, boxed ends, weights, ranks, and what is left out."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxrl_llm import cli
from jaxrl_llm.data.config import BytesConfig, ChatDataConfig, ExamplesConfig, HuggingFaceConfig, PreferenceDataConfig
from jaxrl_llm.data.inspect import inspect
from jaxrl_llm.types import Labelled, Pairs
from tests.golden.chat_cases import tokenizer_files

GREEN, BOXED, GREY, RESET = "\x1b[32m", "\x1b[7;32m", "\x1b[38;5;244m", "\x1b[0m"
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho\x1b[5m", "weight": 0.5},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "So"},
]


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def shown(data, consumes=Pairs, tokenizer=None, n=2, styles=False) -> str:
    config = SimpleNamespace(data=data, tokenizer=tokenizer or BytesConfig(), algo=SimpleNamespace(consumes=consumes))
    console = Console(record=True, width=200, color_system="truecolor", force_terminal=True, file=io.StringIO())
    inspect(config, n, console)
    return console.export_text(styles=styles)


def test_a_conversation_has_its_prompt_grey_its_answers_green_and_their_ends_boxed(tmp_path: Path) -> None:
    for name, content in tokenizer_files("bytes").items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    path = write(tmp_path / "a.jsonl", {"messages": TALK}, {"messages": TALK[2:]})
    data = ChatDataConfig(path=path, length=200, template="chatml")
    tokenizer = HuggingFaceConfig(path=str(tmp_path))
    text = shown(data, tokenizer=tokenizer, styles=True)
    for part in (
        f"{GREY}Hi",
        f"{GREEN}Ho\\x1b[5m{RESET}{BOXED}<|im_end|>{RESET}",
        f"{GREEN}So{RESET}{BOXED}<|im_end|>",
    ):
        assert part in text
    text = shown(data, tokenizer=tokenizer)
    assert "messages (messages)" in text
    assert "2 of 2 examples" in text
    assert "1 rows of 200 (first_fit" in text
    assert "row 0: 2 conversation(s)" in text
    assert "<|im_end|>(x 0.5)" in text
    assert "So<|im_end|>(x" not in text
    assert "places of padding" in text


def test_a_comparison_has_its_prompt_once_and_its_answers_from_the_best_on(tmp_path: Path) -> None:
    row = {"prompt": "Which?", "chosen": "Blue.", "rejected": "Red.", "margin": 0.5, "subset": "[b]\x07"}
    path = write(tmp_path / "a.jsonl", row, {**row, "rejected": "Blue."}, {**row, "rejected": "x" * 99})
    data = PreferenceDataConfig(path=path, length=64, max_dropped=1.0, safety=True)
    text = shown(data)
    first, second = text.split("example 0:")[1].split("example 1:")
    assert first.count("Which?") == 1
    assert "2 answer(s), at most 31 tokens, margin 0.5, about safety, subset [b]\\x07" in first
    assert (
        first.index("answer 0, rank 0") < first.index("Blue.") < first.index("answer 1, rank 1") < first.index("Red.")
    )
    assert "cut to fit" in second
    assert "2 of 3 examples, 1 have answers that are the same, 1 cut to fit" in text
    assert f"{GREEN} Blue.{RESET}{BOXED}<eos>{RESET}" in shown(data, styles=True)


def test_judgements_say_what_they_are(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Which?", "completion": word, "label": label} for word, label in (("Blue.", True), ("Red.", False))
    ]
    text = shown(PreferenceDataConfig(path=write(tmp_path / "a.jsonl", *rows)), consumes=Labelled)
    assert text.index("answer 0, wanted") < text.index("Blue.") < text.index("answer 0, unwanted") < text.index("Red.")


@pytest.mark.parametrize("action", ["build", "inspect"])
@pytest.mark.parametrize("kind", ["text", "chat", "preferences"])
def test_the_verb_takes_each_kind_of_data(
    tmp_path: Path, action: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": "Which?", "chosen": "Blue.", "rejected": "Red."}
    row = {"text": {"text": "a b c"}, "chat": {"messages": TALK}, "preferences": pair}[kind]
    path = write(tmp_path / "a.jsonl", *[row] * 4)
    config = tmp_path / "c.yaml"
    algo = {"text": "pretrain", "chat": "sft", "preferences": "dpo"}[kind]
    holdout = "holdout: 0.25" if kind == "text" else "holdout_rows: 1"
    data = f"{{kind: {kind}, path: {path}, length: 256, {holdout}}}"
    config.write_text(f"workdir: {tmp_path}/run\nalgo: {{kind: {algo}}}\ndata: {data}\n")
    assert cli.main(["data", action, str(config)]) == 0
    out = capsys.readouterr().out
    wanted = {"text": "documents", "chat": "messages (messages)", "preferences": "pairs (prompt, chosen, rejected)"}
    assert wanted[kind] in out
    assert ("data (holdout)" in out) == (action == "build")


def test_two_corpora_say_their_names(tmp_path: Path) -> None:
    mix = {name: ExamplesConfig(path=write(tmp_path / f"{name}.jsonl", {"messages": TALK})) for name in "ab"}
    text = shown(ChatDataConfig(mix=mix))
    assert text.index("a: /") < text.index("b: /")
