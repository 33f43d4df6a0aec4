"""report.md of rejection sampling, and its plots, from the figures of report.json."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxrl_llm.eval_plots import sample_curves
from jaxrl_llm.plots.look import EVALS, INK, TRAIN, dress
from jaxrl_llm.report import tables
from jaxrl_llm.training.console import duration, si
from jaxrl_llm.types import Json


def draw(figures: Json, folder: Path) -> dict[str, str]:
    """Write the PNG files that there is something for; returns file name -> caption."""
    drawn: dict[str, tuple[str, Figure]] = {}
    if figures["scores"] is not None:
        drawn["scores.png"] = ("Scores of the answers", score_bars(figures["scores"]))
    if figures["samples"] is not None:
        drawn["samples.png"] = ("Problems solved with k samples", sample_curves(figures["samples"], None))
    for name, (_, figure) in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / name, dpi=160)
    return {name: caption for name, (caption, _) in drawn.items()}


def score_bars(scores: Json) -> Figure:
    """Shares by score: all answers behind, the selected ones before them."""
    figure = Figure(figsize=(8, 3.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    dress(axes, "Scores of the answers", "% of the answers")
    axes.grid(axis="x", visible=False)
    edges = scores["edges"]
    widths = [high - low for low, high in pairwise(edges)]
    for name, color, alpha in (("drawn", TRAIN, 0.45), ("selected", EVALS[0], 0.75)):
        heights = [100 * share for share in scores[name]]
        axes.bar(edges[:-1], heights, [0.92 * w for w in widths], align="edge", color=color, alpha=alpha, label=name)
    axes.set_xlabel("score", color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=10)
    return figure


def markdown(figures: Json) -> str:
    """The page."""
    images = [f"![{caption}](plots/{name})" for name, caption in figures["plots"].items()]
    sections = [
        f"# {figures['name']}",
        summary(figures),
        tables.table(("", "accuracy, %", "score", "ended, %", "answers"), worth_rows(figures)),
        *images,
        "## Filters\n\n" + tables.table(("", "answers"), filter_rows(figures)),
        pairs_section(figures),
        "## Files\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in figures["files"].items()),
        "## Next\n\n```bash\n" + "\n".join(f"{line}  # {why}" for why, line in figures["commands"].items()) + "\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(figures: Json) -> str:
    """What was done, in a paragraph."""
    prompts, speed = figures["prompts"], figures["speed"]
    text = (
        f"{figures['answers']:,} answers to {prompts['with answers']:,} prompts; {figures['selected']:,} selected, "
        + (f"and {figures['human']:,} by people, " if figures["human"] else "")
        + f"to {prompts['with a selected one']:,} prompts.\n"
    )
    if speed["tokens"]:
        text += (
            f"{si(speed['tokens'])} tokens drawn in {duration(speed['sample_s'])}, {si(speed['tokens_per_s'])} a "
            f"second, {speed['prefills']:,} prompts run for {speed['drawn']:,} answers; rated in "
            f"{duration(speed['rate_s'])}.\n"
        )
    if figures["paths"]:
        text += f"{figures['paths']:.2f} right answers with different equations a prompt.\n"
    accuracy = figures["reward_accuracy"]
    if accuracy is not None:
        text += (
            f"A right answer scores above a wrong one to the same prompt in {100 * accuracy['accuracy']:.1f} % "
            f"({accuracy['prompts']:,} prompts have both).\n"
        )
    return text.rstrip()


def worth_rows(figures: Json) -> list[Sequence[str]]:
    """Of a drawn answer, of a selected one, and of each model's."""
    rows = {"drawn": figures["before"], "selected": figures["after"]}
    if len(figures["by_model"]) > 1:
        rows |= {f"drawn by {name}": found for name, found in figures["by_model"].items()}
    return [
        (
            name,
            tables.number(found, "accuracy", 2, percent=True),
            tables.number(found, "score", 3),
            tables.number(found, "ended", 1, percent=True),
            f"{found['answers']:,.0f}",
        )
        for name, found in rows.items()
    ]


def filter_rows(figures: Json) -> list[Sequence[str]]:
    """How many answers went where, in the order of the filters."""
    stopped = figures["filters"]
    return [
        ("drawn, or of the pool", f"{figures['answers']:,}"),
        *((name, f"{count:,}") for name, count in stopped.items()),
        ("selected", f"{figures['selected']:,}"),
    ]


def pairs_section(figures: Json) -> str:
    """How many pairs, and why others gave none."""
    if not figures["pairs"] and not figures["contrast"]:
        return ""
    rows = [("pairs", f"{figures['pairs']:,}"), *((why, f"{n:,}") for why, n in figures["contrast"].items())]
    return "## Pairs\n\n" + tables.table(("", "prompts or pairs"), rows)
