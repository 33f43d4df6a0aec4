"""`label`, from the command line: what is typed on stdin, what is in the file, what training reads of it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl_llm.cli import main
from jaxrl_llm.config.layers import find_config
from jaxrl_llm.data.config import ExamplesConfig
from jaxrl_llm.data.examples import Comparison
from jaxrl_llm.data.read_examples import read_examples
from jaxrl_llm.labelling.candidates import read_candidates, shown_order
from jaxrl_llm.verbs.label import NEXT

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
ROWS = [
    {"prompt": "2+2?", "answers": ["4", "5"], "models": ["model-xa", "model-xb"], "id": "sum", "subset": "sums"},
    {"prompt": SYSTEM, "answers": ["Po", "Rhine", "Paris"], "safety": True},
    {"prompt": "hello", "completion": "hi", "ended": True, "tokens": [1], "logp": [-0.5]},
    {"prompt": "hello", "completion": "go", "ended": True, "tokens": [2], "logp": [-0.5]},
    {"prompt": "alike", "chosen": "same", "rejected": "same "},
    {"prompt": "sky?", "chosen": "blue\x1b[2J", "rejected": "green"},
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    candidates = tmp_path / "candidates.jsonl"
    candidates.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return candidates, tmp_path / "labels.jsonl"


def label(files: tuple[Path, Path], typed: str, *options: str, code: int = 0) -> str:
    """Everything that the command prints, given these lines on stdin."""
    command = [sys.executable, "-m", "jaxrl_llm", "label", *map(str, files), *options]
    done = subprocess.run(
        command,
        input=typed,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def screens(candidates: Path) -> list[list[str]]:
    """The answers of each item that is asked, in the order they are shown."""
    items = [item for item in read_candidates(candidates).items if len(item.answers) > 1]
    return [[item.answers[i][0]["content"] for i in shown_order(0, item)] for item in items]


def said(text: str) -> tuple[dict, ...]:
    return ({"role": "assistant", "content": text},)


def asked(text: str) -> tuple[dict, ...]:
    return ({"role": "user", "content": text},)


def test_what_is_typed_is_what_training_reads(files: tuple[Path, Path]) -> None:
    sums, rivers, greetings, colours = screens(files[0])
    four, rhine, blue = sums.index("4") + 1, rivers.index("Rhine") + 1, colours.index("blue\x1b[2J") + 1
    others = [place for place in (1, 2, 3) if place != rhine]
    safe = ["ny"[text == "4"] for text in sums] + ["ny"[text == "Paris"] for text in rivers]
    lines = (str(four), "3", " ".join(safe[:2]), f"{rhine} {others[1]}={others[0]}", "".join(safe[2:]),
             "t", "nn", f"{blue}0", "yy")  # fmt: skip
    printed = label(files, "\n".join(lines), "--safety")
    assert "4 labelled (1 ties), 1 skipped, 0 left" in printed

    def at(line: int) -> str:
        return f"{files[1]}:{line}"

    best_first = ["Rhine", *(rivers[place - 1] for place in others)]
    assert list(read_examples(ExamplesConfig(path=str(files[1])), "comparison")) == [
        Comparison(
            asked("2+2?"), (said("4"), said("5")), (0, 1), at(1), rating=3, safe=(True, False), subset="sums"
        ),
        Comparison(
            tuple(SYSTEM), tuple(map(said, best_first)), (0, 1, 1), at(2),
            safety=True, safe=tuple(text == "Paris" for text in best_first),
        ),
        Comparison(asked("hello"), tuple(map(said, greetings)), (0, 0), at(3), safe=(False, False)),
        Comparison(asked("sky?"), (said("blue\x1b[2J"), said("green")), (0, 1), at(4), rating=0, safe=(True, True)),
    ]  # fmt: skip


def test_models_are_not_shown_but_kept(files: tuple[Path, Path]) -> None:
    four = screens(files[0])[0].index("4") + 1
    printed = label(files, f"{four}3\nq\n", "--labeller", "ann")
    assert "model-x" not in printed
    assert "\x1b" not in printed
    [row] = rows(files[1])
    assert (row["models"], row["source"], row["shown"]) == (["model-xa", "model-xb"], [0, 1], [four, 3 - four])
    assert (row["labeller"], row["id"]) == ("ann", "sum")
    [skipped] = rows(files[1].with_name("labels.jsonl.skipped"))
    assert skipped["skipped"] == "no two answers differ"
    assert skipped["origin"] == f"{files[0]}:5"


def test_control_characters_are_shown_escaped(files: tuple[Path, Path]) -> None:
    printed = label(files, "t\nt\nt\n")
    assert r"blue\x1b[2J" in printed
    assert "\x1b" not in printed


def test_bytes_that_are_no_text_are_no_reply(files: tuple[Path, Path]) -> None:
    assert "is not 1, 2 or t; ? for help" in label(files, "\udcff\n")


def test_it_goes_on_where_it_stopped(files: tuple[Path, Path]) -> None:
    first = label(files, "13\n1 2 3\n")  # the end of the input is q
    assert "2 labelled (0 ties), 1 skipped, 2 left" in first
    assert "1 items are skipped, as no two of their answers differ" in first
    before = files[1].read_bytes()
    second = label(files, "s\nt\n", "--limit", "1")
    assert "2+2?" not in second
    assert "Name a river." not in second
    assert "4 of 5" in second
    assert "answers differ" not in second
    assert "2 labelled (0 ties), 2 skipped, 1 left" in second
    third = label(files, "b\nb\nq\n")  # back over both labels: the first is asked again
    assert third.index("sky?") < third.index("Name a river.") < third.index("2+2?")
    assert not files[1].exists()
    label(files, "13\n1 2 3\n")
    assert [row["shown"] for row in rows(files[1])] == [json.loads(line)["shown"] for line in before.splitlines()]


def test_the_seed_decides_the_order(files: tuple[Path, Path]) -> None:
    [item, *_] = read_candidates(files[0]).items
    seeds = [next(seed for seed in range(99) if shown_order(seed, item) == order) for order in ([0, 1], [1, 0])]
    for seed in seeds:
        label(files, "t\n", "--seed", str(seed), "--labeller", str(seed))
    assert [row["source"] for row in rows(files[1])] == [[0, 1], [1, 0]]


def test_each_labeller_has_his_own_way(files: tuple[Path, Path]) -> None:
    label(files, "t\n", "--labeller", "ann")
    assert "2+2?" in label(files, "t\nt\n", "--labeller", "bob")
    assert "Name a river." in label(files, "q\n", "--labeller", "ann")
    assert [row["labeller"] for row in rows(files[1])] == ["ann", "bob", "bob"]


def test_a_half_written_line_is_mended_with_a_note(files: tuple[Path, Path]) -> None:
    label(files, "t\nt\n")
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-20])
    printed = label(files, "q\n")
    assert f"note: {files[1]}:2: the last line was half-written, and is cut away" in printed
    assert "Name a river." in printed
    assert files[1].read_bytes() == whole[: whole.index(b"\n") + 1]


def test_a_kill_and_ctrl_c_lose_nothing(files: tuple[Path, Path]) -> None:
    """At a real terminal: each decision is in the file before the next question."""
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        terminal, other_end = pty.openpty()
        command = [sys.executable, "-m", "jaxrl_llm", "label", *map(str, files), "--labeller", number.name]
        process = subprocess.Popen(command, stdin=other_end, stdout=other_end, stderr=other_end, close_fds=True)
        os.close(other_end)
        printed = b""
        os.write(terminal, b"t\r")
        deadline = time.monotonic() + 60
        while b"order, best first" not in printed:
            assert time.monotonic() < deadline, printed
            printed += os.read(terminal, 1 << 16)
        while process.poll() is None:  # a signal between the question and the wait for its answer is heard after it
            assert time.monotonic() < deadline + 60
            process.send_signal(number)
            time.sleep(0.5)
        assert process.returncode == code
        os.close(terminal)
        assert [row["labeller"] for row in rows(files[1])][-1] == number.name
    assert len(rows(files[1])) == 2


def test_wrong_usage(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    candidates, out = map(str, files)
    mistakes = {
        ("nowhere.jsonl", out): "nowhere.jsonl: no such file",
        (candidates, candidates): "is the file of candidates as well",
        (candidates, out, "--limit", "0"): "--limit must be at least 1",
        (candidates, out, "--labeller", " "): "--labeller must not be empty",
    }
    for arguments, message in mistakes.items():
        assert main(["label", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not files[1].exists()
    label((files[0].with_name("cand*.jsonl"), files[1]), "t\n")
    label((files[0].with_name("cand*.jsonl"), files[1]), "b\n")
    files[1].write_text('{"text": "a corpus"}\n')
    assert main(["label", candidates, out]) == 2
    assert f"{out}:1: not a row that `label` wrote" in capsys.readouterr().err
    assert files[1].read_text() == '{"text": "a corpus"}\n'
    files[0].write_text('{"prompt": "p", "completion": "alone"}\n')
    assert main(["label", candidates, str(files[1].with_name("new.jsonl"))]) == 2
    assert f"{candidates}:1: one answer alone" in capsys.readouterr().err


def test_real_files_can_be_labelled_anew(shared_data: Path) -> None:
    folder = shared_data / "preferences"
    counts = {file.name: len(read_candidates(file).items) for file in sorted(folder.glob("*.jsonl*"))}
    assert len(counts) == 4
    assert all(count > 200 for count in counts.values()), counts


def test_the_next_command_has_a_config() -> None:
    assert find_config(NEXT).is_file()
