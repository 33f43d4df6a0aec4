"""What a model wrote, in a table that fits."""

from typing import Any

import pytest
from rich.cells import cell_len

from jaxrl_llm.training.screen import said, samples_table, shortened


def row(prompt: Any, completion: str, reward: float, ended: bool = True, **parts: float) -> dict[str, Any]:
    return {
        "step": 9, "round": 2, "prompt": prompt, "completion": completion, "reward": reward, "parts": parts,
        "ended": ended, "tokens": [1, 2],
    }  # fmt: skip


TOLD = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
LONG = "First " + "and then " * 50 + "\n#### 47"


def test_the_table() -> None:
    rows = [
        row(TOLD, "4\n#### 4", 1.0, grade=1.0, length=-0.0),
        row(TOLD, "5", -0.5, ended=False, grade=0.0, length=-12.0),
        row("Question: 3?\nAnswer:", " 3", 0.25, grade=0.25),
    ]
    assert samples_table(rows, 100).split("\n") == [
        "prompt                  answer      reward  grade   length  ended",
        "2 + 2?                  4 ⏎ #### 4   1.000  1.000    0.000  yes",
        "                        5           -0.500  0.000  -12.000  no",
        "Question: 3? ⏎ Answer:  3            0.250  0.250           yes",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_screen_and_none_wraps(width: int) -> None:
    rows = [row(LONG, LONG, 0.5, helpfulness=0.5, safety=1.0), row("字" * 90, "\U0001f600" * 90, 1.0)]
    lines = samples_table(rows, width).split("\n")
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert width < 60 or all(("reward" in lines[0], "0.500" in lines[1], "#### 47" in lines[1]))
    assert ("safety" in lines[0]) == (width >= 80)  # where there is no room, parts go first


def test_nothing_that_a_terminal_obeys_and_no_line_break_gets_through() -> None:
    table = samples_table([row("a\x1b[31m\x07", "b\r\n\tc\u2028d\x0be [bold]f[/bold]", 1.0)], 120)
    assert table.split("\n")[1].startswith("a\\x1b[31m\\x07  b ⏎  c ⏎ d ⏎ e [bold]f[/bold]")


def test_the_middle_is_left_out() -> None:
    assert shortened("0123456789", 10) == "0123456789"
    assert shortened("0123456789", 7) == "012…789"
    assert shortened("0123456789", 6) == "012…89"
    assert shortened("字字字字", 5) == "字…字"
    assert shortened("ab", 1) == "…"
    assert shortened("ab", 0) == ""


def test_what_was_asked() -> None:
    assert said("text\nas it is") == "text\nas it is"
    assert said([*TOLD, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Sure?"}]) == "Sure?"
    assert said([{"role": "system", "content": "Be brief."}]) == ""
