"""What one sees of a run: a line for each logged step, and on a terminal a progress bar beneath the lines.

    step 1,200/2,000  loss  1.6231  grad  0.41  lr 2.10e-03  42.1k tok/s    1.20 TFLOP/s ( 0.2 % of peak)  ...

What an algorithm measures besides its loss comes after it, such as the accuracy of a reward model or of DPO.  Where the
policy learns from its own answers, the line is about them:

    step 1,200/2,000  reward  0.612  kl  5.12  entropy 0.31  clip  3.1 %   54 tokens  ended  99 %  lr 1.0e-05  ...

A pipe or a log file gets plain lines without escape codes, each flushed as it is printed.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TextIO

import rich.console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.screen import printable, samples_table


class Console:
    """Prints the course of a run; a context manager, so that the bar is gone however the run ends.

    `memory` says what `memory_gib` measures: the device, or on CPU the whole process (`rss`).  With `quiet` nothing is
    ever printed.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        throughput: Throughput,
        start_step: int = 0,
        memory: Literal["device", "process"] = "device",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._total, self._throughput, self._memory = total_steps, throughput, memory
        self._stream = sys.stdout if stream is None else stream
        self._quiet = quiet
        self._step = start_step
        self._bar: Progress | None = None
        if not quiet and self._stream.isatty():
            screen = rich.console.Console(file=self._stream, force_terminal=True, highlight=False)
            if not screen.is_dumb_terminal:
                self._bar = Progress(
                    BarColumn(bar_width=None),
                    TextColumn("{task.fields[at]}"),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[eta]}"),
                    console=screen,
                    refresh_per_second=4,  # its thread shares the interpreter with the loop
                    transient=True,
                    expand=True,
                )
                at = self._at(start_step)
                self._task = self._bar.add_task("", total=total_steps, completed=start_step, at=at, eta="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar to this many steps done; cheap enough for every step."""
        self._step = step
        if self._bar:
            self._bar.update(self._task, completed=step, at=self._at(step), eta=self._eta())

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The line of a training step, from the row that metrics.jsonl gets."""
        self._step = step
        self._print("step", step, [*train_fields(metrics, "rss" if self._memory == "process" else "mem"), self._eta()])

    def eval(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
        """The line of an evaluation on the set `name`."""
        self._print("eval", step, [name, *eval_fields(metrics)], style="bold")

    def note(self, text: str) -> None:
        """Any other text, such as a sample."""
        self._emit(text)

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Answers with their rewards, rows of samples.jsonl: a table as wide as the terminal, in a pipe 120."""
        width = self._bar.console.width if self._bar else shutil.get_terminal_size((120, 24)).columns
        self._emit(samples_table(rows, width))

    def _print(self, head: str, step: int, fields: list[str], style: str = "") -> None:
        parts = [f"{head} {self._at(step)}", *(field for field in fields if field)]
        if self._bar:  # a wrapped line is hard to read; what does not fit is in metrics.jsonl, and the ETA in the bar
            while len(parts) > 2 and len("  ".join(parts)) > self._bar.console.width:
                parts.pop()
        self._emit("  ".join(parts), style)

    def _emit(self, text: str, style: str = "") -> None:
        if self._quiet:
            return
        text = printable(text)
        try:
            if self._bar:
                self._bar.console.print(Text(text, style=style), soft_wrap=True)
            else:
                encoding = self._stream.encoding or "utf-8"
                text = text.encode(encoding, "backslashreplace").decode(encoding)
                print(text, file=self._stream, flush=True)
        except BrokenPipeError:  # `| head` has seen enough; the run goes on
            self._quiet = True

    def _at(self, step: int) -> str:
        total = f"{self._total:,}"
        return f"{step:>{len(total)},}/{total}"

    def _eta(self) -> str:
        left = self._throughput.seconds_left(self._total - self._step)
        return "" if left is None else f"ETA {duration(left)}"


Columns = Mapping[str, Callable[[float], str]]  # metric -> how a line shows it, in steady width
LOSS: Columns = {"loss": lambda x: f"loss {x:7.4f}"}
MEASURES: Columns = {  # what algorithms measure besides their loss
    "trained_fraction": lambda x: f"trained {100 * x:5.1f} %",
    "accuracy": lambda x: f"accuracy {100 * x:5.1f} %",
    "margin": lambda x: f"margin {x:+7.3f}",
}
ROLLOUTS: Columns = {  # instead of all else where the policy learns from rollouts; with steps and ETA 120 columns
    "score": lambda x: f"reward {x:6.3f}",
    "kl": lambda x: f"kl {x:5.2f}",
    "entropy": lambda x: f"entropy {x:4.2f}",
    "clip_fraction": lambda x: f"clip {100 * x:4.1f} %",
    "length": lambda x: f"{x:3.0f} tokens",
    "ended": lambda x: f"ended {100 * x:3.0f} %",
    "lr": lambda x: f"lr {x:.1e}",
}
ANSWERS: Columns = {  # of a policy that was asked the problems of a task
    "parsed": lambda x: f"parsed {100 * x:5.1f} %",
    "ended": lambda x: f"ended {100 * x:5.1f} %",
    "length": lambda x: f"{x:5.1f} tokens",
}
ALIASES = {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}  # what DPO and its kin call them


def train_fields(metrics: Mapping[str, float], memory: str = "mem") -> list[str]:
    """The columns of a training line; those whose figure is missing are left out."""
    if "score" in metrics:
        return _fields(metrics, ROLLOUTS)
    share = f" ({100 * metrics['peak_share']:4.1f} % of peak)" if "peak_share" in metrics else ""
    columns: Columns = {
        "grad_norm": lambda x: f"grad {x:5.2f}",
        "lr": lambda x: f"lr {x:.2e}",
        "tokens_per_s": lambda x: f"{si(x):>5} tok/s",
        "tflops": lambda x: f"{digits(x):>6} TFLOP/s{share}",
        "memory_gib": lambda x: f"{memory} {x:4.1f} GiB",
        "data_wait_ms": lambda x: f"data {x:4.1f} ms",
    }
    return [*_fields(metrics, LOSS), *_measured(metrics), *_fields(metrics, columns)]


def eval_fields(metrics: Mapping[str, float]) -> list[str]:
    """The columns of an evaluation line; accuracy has its 95 % interval, where that is known."""
    columns: Columns = {
        "perplexity": lambda x: f"perplexity {si(x):>5}",
        "bits_per_byte": lambda x: f"bits/byte {x:.4f}",
    }
    answers = ANSWERS if "parsed" in metrics else {}
    return [*_fields(metrics, LOSS), *_fields(metrics, columns), *_measured(metrics), *_fields(metrics, answers)]


def _fields(metrics: Mapping[str, float], columns: Columns) -> list[str]:
    return [shown(metrics[name]) for name, shown in columns.items() if name in metrics]


def _measured(metrics: Mapping[str, float]) -> list[str]:
    found = {ALIASES.get(name, name): value for name, value in metrics.items()}
    interval = ""
    if "accuracy_low" in found:
        interval = f" ({100 * found['accuracy_low']:4.1f} to {100 * found['accuracy_high']:4.1f})"
    columns = {**MEASURES, "accuracy": lambda x: MEASURES["accuracy"](x) + interval}
    return _fields(found, columns)


def digits(x: float) -> str:
    """Three significant digits and no exponent: `0.0184`, `1.20`, `560`; from 1e-4 downwards fewer."""
    x = float(f"{x:.3g}")
    for limit, places in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if not abs(x) < limit:  # true for nan, which formats as itself
            return f"{x:,.{places}f}"
    return f"{x:.4f}"


def si(x: float) -> str:
    """Three significant digits and a unit prefix: `842`, `42.1k`, `1.23M`."""
    x = float(f"{x:.3g}")
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= limit:
            return digits(x / limit) + prefix
    return digits(x)


def duration(seconds: float) -> str:
    """`0:01:10`, `3d 04:00:00`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    days, of_day = divmod(hours, 24)
    clock = f"{minutes:02}:{seconds:02}"
    return f"{days}d {of_day:02}:{clock}" if days else f"{hours}:{clock}"
