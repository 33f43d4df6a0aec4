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
SUMMARIES = ("overall", "gain")  # rows that a line is drawn above


def write(figures: Json, scores: Iterable[Json], directory: Path) -> None:
    """Write report.md, report.json and plots/ into a directory, and scores.jsonl where there are scores."""
    figures = figures | {"plots": eval_plots.draw(figures, directory / "plots")}
    (directory / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(markdown(figures), encoding="utf-8")
    if lines := [json.dumps(row, ensure_ascii=False) + "\n" for row in scores]:
        (directory / "scores.jsonl").write_text("".join(lines), encoding="utf-8")


def show(figures: Json, console: Console) -> None:
    """Print the tables and the notes; lines are never cut."""
    console.print(Text(title(figures), "bold"), soft_wrap=True)
    for head, rows in tables_of(figures):
        drawn = Table()
        for number, name in enumerate(head):
            drawn.add_column(name, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            if row[0] in SUMMARIES:
                drawn.add_section()
            cells = (Text(cell, "" if cell.startswith("  ") or number else "bold") for number, cell in enumerate(row))
            drawn.add_row(*cells)
        widest = Measurement.get(console, console.options.update(max_width=1000), drawn).maximum
        console.width = max(console.width, widest)
        console.print(drawn, crop=False)
    for note in figures["notes"]:
        console.print(Text(note), soft_wrap=True)


def markdown(figures: Json) -> str:
    """report.md from the figures of report.json."""
    drawn = "\n\n".join(tables.table(head, map(_marked, rows)) for head, rows in tables_of(figures))
    notes = "\n".join(f"- {note}" for note in figures["notes"])
    images = "\n\n".join(f"![{caption}](plots/{name})" for name, caption in figures["plots"].items())
    return f"# {title(figures)}\n\n{drawn}\n\n{notes}\n\n{images}\n"


def title(figures: Json) -> str:
    """What was evaluated on what."""
    if figures["suite"] == "perplexity":
        suite = "Perplexity"
    elif figures["suite"] == "task":
        suite = _task(figures["task"])
    elif figures["suite"] == "best-of-n":
        suite = f"Best of {figures['n']}" + (f", {_task(figures['task'])}" if figures["task"] else "")
    else:
        suite = f"RewardBench {figures['version']}" if figures["overall"] else "Preferences"
    return f"{suite}: {figures['model']}"


def tables_of(figures: Json) -> list[tuple[Row, list[Row]]]:
    """Of each table its column names and rows; names that stand below another begin with two spaces."""
    if figures["suite"] == "perplexity":
        head: Row = ("domain", "loss, nats per token", "perplexity", "bits per byte", "tokens")
        rows: list[Row] = [
            (name, f"{x['loss']:.4f}", f"{x['perplexity']:.2f}", f"{x['bits_per_byte']:.4f}", f"{x['tokens']:,.0f}")
            for name, x in figures["domains"].items()
        ]
        return [(head, rows)]
    if figures["suite"] == "task":
        return [_greedy_table(figures), *([_samples_table(figures["samples"])] if figures["samples"] else [])]
    if figures["suite"] == "best-of-n":
        return [_best_table(figures["best_of"]), *([_runs_table(figures["runs"])] if figures["runs"] else [])]
    rows = []
    for section, found in figures["sections"].items():
        rows.append((section, *_cells(found)))
        for name, each in figures["subsets"].items():
            if each["section"] == section != name:  # in version 2 a section is a subset
                rows.append((f"  {name}", *_cells(each, each["of"])))
    if figures["overall"]:
        rows.append(("overall", *_cells(figures["overall"])))
    return [(("", "questions", "accuracy, %", "95 % interval", "ties"), rows)]


def _greedy_table(figures: Json) -> tuple[Row, list[Row]]:
    """One answer to each problem, of the likeliest tokens; what was gained, and of what kind it is."""
    head = ("greedy", "accuracy, %", "95 % interval", "parsed, %", "ended, %", "right of parsed, %", "tokens")
    before, after, gain = figures["before"], figures["greedy"], figures["gain"]
    models = {"answers": after} if before is None else {"before": before, "after": after}
    rows: list[Row] = [
        (
            name,
            tables.number(x, "accuracy", 2, percent=True),
            tables.interval(x["interval"]),
            *(tables.number(x, each, 1, percent=True) for each in ("parsed", "ended")),
            tables.UNKNOWN if x["accuracy_of_parsed"] is None else f"{100 * x['accuracy_of_parsed']:.2f}",
            f"{x['length']:.1f}",
        )
        for name, x in models.items()
    ]
    if gain is not None:
        for name, key in {"gain": "accuracy", "  format": "format", "  reasoning": "reasoning"}.items():
            ends = tables.minus(tables.interval(gain["interval"])) if name == "gain" else tables.UNKNOWN
            rows.append((name, tables.minus(f"{100 * gain[key]:+.2f}"), ends, *[tables.UNKNOWN] * 4))
    return head, rows


def _samples_table(samples: Json) -> tuple[Row, list[Row]]:
    """What k samples of a problem are worth: one of them right, their vote, the one of the highest reward."""
    best = samples.get("best_of")
    head = ("k", "pass@k, %", "95 % interval", "maj@k, %", "95 % interval")
    rows: list[Row] = []
    for k, passed in samples["pass"].items():
        found = [(passed, "rate"), (samples["majority"][k], "rate"), *([(best[k], "accuracy")] if best else [])]
        cells = [cell for x, name in found for cell in (f"{100 * x[name]:.2f}", tables.interval(x["interval"]))]
        rows.append((f"{k}", *cells, *([tables.minus(f"{best[k]['reward']:.3f}")] if best else [])))
    return (*head, *(("best of k, %", "95 % interval", "its reward") if best else ())), rows


def _best_table(best_of: Json) -> tuple[Row, list[Row]]:
    """Of each n what choosing costs in KL, and what it gains."""
    first = next(iter(best_of.values()))
    rows: list[Row] = [
        (
            f"{n}",
            f"{found['kl_bound']:.3f}",
            *_with_interval(found, "reward", "reward_interval"),
            f"{100 * found['win_bound']:.2f}",
            *_wins(found),
        )
        for n, found in best_of.items()
    ]
    return ("best of", "KL at most, nats", "reward", "95 % interval", "wins at most, %", *_wins_head(first)), rows


def _runs_table(runs: Json) -> tuple[Row, list[Row]]:
    """Of other policies the same, measured."""
    first = next(iter(runs.values()))
    rows: list[Row] = [
        (
            name,
            *_with_interval(found, "kl", "kl_interval"),
            *_with_interval(found, "reward", "reward_interval"),
            *_wins(found),
            f"{found['length']:.1f}",
        )
        for name, found in runs.items()
    ]
    return ("run", "KL, nats", "95 % interval", "reward", "95 % interval", *_wins_head(first), "tokens"), rows


def _wins_head(found: Json) -> Row:
    """Of the columns of `_wins`."""
    names = [cell for name in found["wins"] for cell in (f"wins by {name}, %", "95 % interval")]
    return (*names, *(("right, %", "95 % interval") if "accuracy" in found else ()))


def _wins(found: Json) -> Row:
    """How often it wins, by each that says so; and how often it is right, where that is known."""
    rates = [(each["rate"], each["interval"]) for each in found["wins"].values()]
    rates += [(found["accuracy"], found["interval"])] if "accuracy" in found else []
    return tuple(cell for rate, ends in rates for cell in (f"{100 * rate:.2f}", tables.interval(ends)))


def _with_interval(found: Json, name: str, interval: str) -> Row:
    """A number that is no share, and its interval."""
    low, high = found[interval]
    return tables.minus(f"{found[name]:.3f}"), tables.minus(f"{low:.3f}") + " – " + tables.minus(f"{high:.3f}")


def _task(config: Json) -> str:
    """A task and its settings."""
    settings = {name: value for name, value in config.items() if name != "kind" and "path" not in name and value}
    return config["kind"] + "".join(f", {name} {_shown(value)}" for name, value in settings.items())


def _shown(value: object) -> str:
    """A setting of a task; a range is a list in its config."""
    return " to ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cells(found: Json, of: int | None = None) -> Row:
    """Questions, accuracy, interval and ties."""
    count = f"{found['questions']:,}" + (f" of {of:,}" if of not in (None, found["questions"]) else "")
    return count, f"{100 * found['accuracy']:.2f}", tables.interval(found["interval"]), f"{found['ties']:,}"


def _marked(row: Sequence[str]) -> Row:
    """Sections in bold, subsets indented."""
    name = "&emsp;" + row[0].strip() if row[0].startswith("  ") else f"**{row[0]}**"
    return (name, *row[1:])
