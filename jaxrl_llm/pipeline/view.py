"""What one sees of a pipeline: on a terminal one view of all stages, else a line where something happens."""

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import rich.console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxrl_llm.pipeline.progress import Snapshot
from jaxrl_llm.pipeline.stage import Stage
from jaxrl_llm.training.console import duration
from jaxrl_llm.training.screen import printable

EVERY = 30.0  # seconds between lines of how far a stage is
STYLES = {
    "done": "green",
    "running": "bold",
    "to come": "dim",
    "failed": "bold red",
    "stopping": "yellow",
    "stopped": "yellow",
}


class Lines:
    """Plain lines, each flushed; a reader who has seen enough does not end the pipeline."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._numbers = {stage.name: f"[{n}/{len(stages)}] {stage.name}" for n, stage in enumerate(stages, 1)}
        self._said = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def note(self, text: str) -> None:
        """A line, or several."""
        say(text)

    def begin(self, stage: Stage) -> None:
        """It starts."""
        self._said = 0.0
        self.note(f"{self._numbers[stage.name]}: {stage.command}")

    def look(self, stage: Stage, seconds: float, snapshot: Snapshot, state: str = "running") -> None:
        """How far it is, after so many seconds; `running`, or `stopping`."""
        if seconds - self._said >= EVERY:
            self._said = seconds
            self.note(f"{self._numbers[stage.name]}: {snapshot.text or 'running'}, after {duration(seconds)}")

    def end(self, stage: Stage, state: str, seconds: float | None, figures: str) -> None:
        """It is `done`, `failed` or `stopped`; of one that was done before the seconds are those of then."""
        after = "" if seconds is None else f" {'in' if state == 'done' else 'after'} {duration(seconds)}"
        self.note(f"{self._numbers[stage.name]}: {state}{after}{'  ' if figures else ''}{figures}")

    def skip(self, stage: Stage, figures: str) -> None:
        """It was done before."""
        self.note(f"{self._numbers[stage.name]}: done, skipped{'  ' if figures else ''}{figures}")


class Screen:
    """A line for each stage, drawn anew where it stands; what is noted stands above.  Gone when it ends but for the
    last picture."""

    def __init__(self, stages: Sequence[Stage], console: rich.console.Console) -> None:
        self._console = console
        self._rows = {stage.name: ("to come", "", "") for stage in stages}  # state, time, figures
        self._running: tuple[str, Snapshot] | None = None
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._picture)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.refresh()
        self._live.stop()

    def note(self, text: str) -> None:
        """A line, or several."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def begin(self, stage: Stage) -> None:
        """It starts."""
        self.look(stage, 0.0, Snapshot())

    def look(self, stage: Stage, seconds: float, snapshot: Snapshot, state: str = "running") -> None:
        """How far it is, after so many seconds; `running`, or `stopping`."""
        self._running = stage.name, snapshot
        self._rows[stage.name] = state, duration(seconds), snapshot.figures
        self._live.refresh()

    def end(self, stage: Stage, state: str, seconds: float | None, figures: str) -> None:
        """It is `done`, `failed` or `stopped`; of one that was done before the seconds are those of then."""
        self._running = None
        self._rows[stage.name] = state, "" if seconds is None else duration(seconds), figures
        self._live.refresh()

    def skip(self, stage: Stage, figures: str) -> None:
        """It was done before."""
        done = stage.done() or {}
        seconds = done.get("seconds")
        self.end(stage, "done", seconds if isinstance(seconds, int | float) else None, figures)

    def _picture(self) -> Table:
        """What does not fit is cut at its end, so that a stage is always one line."""
        table = _grid("left", "left", "right", "rest")
        for name, (state, spent, figures) in self._rows.items():
            row: Table | Text = _text(figures)
            if self._running is not None and self._running[0] == name and self._running[1].total:
                snapshot = self._running[1]
                left = "" if snapshot.left is None else f"ETA {duration(snapshot.left)}"
                bar = ProgressBar(snapshot.total, snapshot.done, width=16)
                row = _grid("left", "right", "left", "rest")
                row.add_row(bar, Text(f"{snapshot.done / snapshot.total:.0%}"), Text(left), _text(figures))
            table.add_row(Text(name, "bold"), Text(state, STYLES[state]), Text(spent), row)
        return table


def _grid(*columns: str) -> Table:
    """Columns that are `left` or `right`; `rest` has what they leave of the width."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for side in columns:
        if side == "rest":
            table.add_column(no_wrap=True, ratio=1)
        else:
            table.add_column(no_wrap=True, justify="right" if side == "right" else "left")
    return table


def _text(figures: str) -> Text:
    return Text(printable(figures), no_wrap=True, overflow="ellipsis")


View = Lines | Screen  # a context manager: while it is open, the stages run


def make_view(stages: Sequence[Stage], verbose: bool) -> View:
    """A screen on a terminal that can draw one and is ours alone; else lines."""
    console = rich.console.Console(highlight=False)
    can_draw = console.is_terminal and not console.is_dumb_terminal
    return Screen(stages, console) if can_draw and not verbose else Lines(stages)


def say(text: str) -> None:
    """Print a line, at once, without what a terminal would obey."""
    text = printable(text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; the pipeline goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
