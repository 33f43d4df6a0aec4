"""The report of an evaluation: tables for the console, and report.md with plots, report.json and scores.jsonl."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from jaxrl_llm import eval_plots
from jaxrl_llm.report import tables
from jaxrl_llm.types import Json

Row = tuple[str, ...]


def write(figures: Json, scores: Iterable[Json], directory: Path) -> None:
    """Write report.md, report.json and plots/ into a directory, and scores.jsonl where there are scores."""
    figures = figures | {"plots": eval_plots.draw(figures, directory / "plots")}
    (directory / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(markdown(figures), encoding="utf-8")
    if lines := [json.dumps(row, ensure_ascii=False) + "\n" for row in scores]:
        (directory / "scores.jsonl").write_text("".join(lines), encoding="utf-8")


def show(figures: Json, console: Console) -> None:
    """Print the table and the notes; lines are never cut."""
    head, rows = table(figures)
    drawn = Table(title=title(figures), title_justify="left", title_style="bold")
    for number, name in enumerate(head):
        drawn.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        if row[0] == "overall":
            drawn.add_section()
        cells = (Text(cell, "" if cell.startswith("  ") or number else "bold") for number, cell in enumerate(row))
        drawn.add_row(*cells)
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), drawn).maximum)
    console.print(drawn, crop=False)
    for note in figures["notes"]:
        console.print(Text(note), soft_wrap=True)


def markdown(figures: Json) -> str:
    """report.md from the figures of report.json."""
    head, rows = table(figures)
    drawn = tables.table(head, map(_marked, rows))
    notes = "\n".join(f"- {note}" for note in figures["notes"])
    images = "\n\n".join(f"![{caption}](plots/{name})" for name, caption in figures["plots"].items())
    return f"# {title(figures)}\n\n{drawn}\n\n{notes}\n\n{images}\n"


def title(figures: Json) -> str:
    """What was evaluated on what."""
    if figures["suite"] == "perplexity":
        suite = "Perplexity"
    else:
        suite = f"RewardBench {figures['version']}" if figures["overall"] else "Preferences"
    return f"{suite}: {figures['model']}"


def table(figures: Json) -> tuple[Row, list[Row]]:
    """Column names and rows; names that stand below another begin with two spaces."""
    if figures["suite"] == "perplexity":
        head: Row = ("domain", "loss, nats per token", "perplexity", "bits per byte", "tokens")
        return head, [
            (name, f"{x['loss']:.4f}", f"{x['perplexity']:.2f}", f"{x['bits_per_byte']:.4f}", f"{x['tokens']:,.0f}")
            for name, x in figures["domains"].items()
        ]
    rows: list[Row] = []
    for section, found in figures["sections"].items():
        rows.append((section, *_cells(found)))
        for name, each in figures["subsets"].items():
            if each["section"] == section != name:  # in version 2 a section is a subset
                rows.append((f"  {name}", *_cells(each, each["of"])))
    if figures["overall"]:
        rows.append(("overall", *_cells(figures["overall"])))
    return ("", "questions", "accuracy, %", "95 % interval", "ties"), rows


def _cells(found: Json, of: int | None = None) -> Row:
    """Questions, accuracy, interval and ties."""
    count = f"{found['questions']:,}" + (f" of {of:,}" if of not in (None, found["questions"]) else "")
    return count, f"{100 * found['accuracy']:.2f}", tables.interval(found["interval"]), f"{found['ties']:,}"


def _marked(row: Sequence[str]) -> Row:
    """Sections in bold, subsets indented."""
    name = "&emsp;" + row[0].strip() if row[0].startswith("  ") else f"**{row[0]}**"
    return (name, *row[1:])
