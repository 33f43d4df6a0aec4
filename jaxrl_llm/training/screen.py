"""What a model wrote, on a screen: without control characters, shortened, in a table with its rewards."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category

import rich.console
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of the screen between two of the table
LEAST = 16  # of a text, below which a part's column is better left out


def samples_table(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """Lines no wider than `width` of some rows {"prompt", "completion", "reward", "parts", "ended"}, one line each.

        prompt                   answer                reward  grade  ended
        Tom had 3 nuts … left?   3-2=1. ⏎ #### 1        1.000  1.000  yes
                                 3-2=2. ⏎ #### 2        0.000  0.000  yes

    Answers to one prompt stand together, and it is said once.  Where there is no room, the last parts are left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    numbers = [["reward", *(f"{row['reward']:z.3f}" for row in rows)]]
    numbers += [
        [name, *(f"{row['parts'][name]:z.3f}" if name in row["parts"] else "" for row in rows)] for name in names
    ]
    ended = ["ended", *("yes" if row["ended"] else "no" for row in rows)]
    while len(numbers) > 1 and _room(width, [*numbers, ended]) < 2 * LEAST:
        numbers.pop()
    room = max(_room(width, [*numbers, ended]), 2)
    prompts, answers = ([_line(text) for text in texts] for texts in zip(*map(_texts, rows), strict=True))
    for_prompts = min(max(map(cell_len, prompts)), 2 * room // 5)
    for_answers = room - for_prompts
    again = [now == before for before, now in zip([None, *prompts], prompts, strict=False)]
    shown = ["" if same else shortened(prompt, for_prompts) for same, prompt in zip(again, prompts, strict=True)]
    columns = [["prompt", *shown], ["answer", *(shortened(text, for_answers) for text in answers)], *numbers, ended]
    return _drawn(columns, width, right=range(2, 2 + len(numbers)))


def said(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """What is asked: a text as it is, of a conversation the last thing that the user said."""
    if isinstance(prompt, str):
        return prompt
    return next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")


def shortened(text: str, width: int) -> str:
    """At most so wide on a screen: the middle is left out, for an answer's end matters most."""
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    while True:  # a character may be two wide
        more = text[len(head)] if cell_len(head) <= cell_len(tail) else ""
        less = "" if more else text[-1 - len(tail)]
        if cell_len(f"{head}{more}…{less}{tail}") > width:
            return f"{head}…{tail}" if width > 0 else ""
        head, tail = head + more, less + tail


def printable(text: str) -> str:
    """Text without the control characters that a terminal would obey; a model may write any of them."""
    return "".join(
        c.encode("unicode_escape").decode() if category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text
    )


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    return said(row["prompt"]), row["completion"]


def _line(text: str) -> str:
    return printable(" ⏎ ".join(text.strip().splitlines())).replace("\t", " ")


def _room(width: int, columns: Sequence[Sequence[str]]) -> int:
    """What the other columns leave of the width to prompts and answers."""
    return width - sum(GAP + max(map(cell_len, column)) for column in columns) - GAP


def _drawn(columns: Sequence[Sequence[str]], width: int, right: Iterable[int]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for number, (head, *_) in enumerate(columns):
        table.add_column(Text(head), justify="right" if number in right else "left", no_wrap=True)
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    screen = rich.console.Console(file=io.StringIO(), width=width, color_system=None)
    with screen.capture() as drawn:
        screen.print(table)
    return "\n".join(line.rstrip() for line in drawn.get().rstrip("\n").split("\n"))
