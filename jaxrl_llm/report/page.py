"""report.md from the figures of report.json."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrl_llm.data.build_sequences import losses
from jaxrl_llm.report import rollouts
from jaxrl_llm.report.tables import UNKNOWN, change, code, interval, number, table
from jaxrl_llm.training.console import digits, duration, printable, si
from jaxrl_llm.types import Json

# Figures of `train` in report.json -> what the table of the run calls them, and how it shows them.
SPEEDS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "mean_trained_fraction": ("share of the tokens that is trained on", lambda x: f"{100 * x:.1f} %"),
    "median_tokens_per_s": ("tokens per second, median", si),
    "median_tflops": ("TFLOP/s", digits),
    "median_peak_share": ("share of the chips' peak", lambda x: f"{100 * x:.1f} %"),
    "median_step_ms": ("milliseconds a step", digits),
    "median_data_wait_ms": ("of them waiting for data", digits),
    "memory_gib": ("memory, GiB", digits),
}

# What training moves: metric, its name, decimal places, whether per cent.
MOVED = (
    ("loss", "loss", 4, False),
    ("bits_per_byte", "bits per byte", 4, False),
    ("accuracy", "accuracy (%)", 1, True),
    ("margin", "margin", 3, False),
)

# Parts that a set of pairs is taken apart into, by the names of details.json.
PARTS = {"by_subset": "subset", "by_rating": "rating", "by_margin": "margin of the data"}
RATINGS = {"3": "significantly better", "2": "better", "1": "slightly better", "0": "negligibly better"}


def markdown(figures: Json) -> str:
    """The page."""
    small = [_image(figures, name, 400) for name in ("learning_rate.png", "throughput.png")]
    commands = "\n".join(f"{command}  # {why}" for why, command in figures["commands"].items())
    sections = [
        f"# {figures['name']}",
        _summary(figures),
        _image(figures, "rl.png"),
        _image(figures, "tasks.png"),
        rollouts.gain_section(figures["gains"]),
        rollouts.samples_section(figures["answers"]),
        _image(figures, "loss.png"),
        _image(figures, "accuracy.png"),
        _results(_texts(figures)),
        _before_after(_texts(figures)),
        _image(figures, "rewards.png"),
        _image(figures, "domains.png"),
        _image(figures, "health.png"),
        _parts(figures["evals"]),
        _calibration(figures),
        _samples(figures["samples"]),
        _data(figures),
        _run(figures),
        " ".join(filter(None, small)),
        f"## Next\n\n```bash\n{commands}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(figures: Json) -> str:
    """One paragraph: what was trained, for how long, how well it does."""
    config, facts, train = figures["config"], figures["facts"], figures["train"]
    if not train:
        return "No training step was logged."
    size = f" of a model of {si(facts['parameters'])} parameters" if "parameters" in facts else ""
    if "trained parameters" in facts:
        size += f", {si(facts['trained parameters'])} trained"
    text = f"**{config.get('algo.kind', 'training')}**{size}: {train['step']:,} steps"
    learnt = figures["learnt"]
    if learnt:
        answers = f" of {learnt['answers']:,} answers" if learnt["answers"] else ""
        text += f", {learnt['rounds']:,} round{'s' * (learnt['rounds'] != 1)}{answers}"
    elif "tokens" in train:
        text += f", {si(train['tokens'])} tokens"
    if "seconds" in train:
        text += f", {duration(train['seconds'])} of training"
    if "devices" in facts:
        text += f" on {facts['devices']}"
    texts = _texts(figures)
    losses = [] if learnt else [f"training {number(train, 'loss')}"]
    losses += [f"{split} **{number(found['last'], 'loss')}**{_was(found, 'loss', 4)}" for split, found in texts.items()]
    accuracies = [_accuracy(split, found) for split, found in texts.items() if "accuracy" in found["last"]]
    lines = [f"{text}."]
    lines += [rollouts.accuracy(figures["gains"])] if figures["gains"] else []
    lines += [rollouts.summary(learnt)] if learnt else []
    lines += [f"Held-out answers told rightly: {'; '.join(accuracies)}."] if accuracies else []
    unit = " " * bool(figures["loss_unit"]) + figures["loss_unit"]
    lines += [f"Loss at the end: {', '.join(losses)}{unit}."] if losses else []
    return "\n".join(lines)


def _texts(figures: Json) -> Json:
    """What was evaluated besides tasks, which have no loss."""
    return {split: found for split, found in figures["evals"].items() if split not in figures["gains"]}


def _was(found: Json, name: str, places: int, percent: bool = False) -> str:
    """` (0.6931 before)`, where that is known."""
    before = number(found["before"] or {}, name, places, percent)
    return "" if before == UNKNOWN else f" ({before}{' %' * percent} before)"


def _accuracy(split: str, found: Json) -> str:
    """Of one set: the headline of a run on preferences."""
    last = found["last"]
    text = f"{split} **{number(last, 'accuracy', 1, percent=True)} %**{_was(found, 'accuracy', 1, percent=True)}"
    bounds = _bounds(last)
    return text if bounds == UNKNOWN else f"{text}, 95 % interval {bounds}, {last['pairs']:,.0f} pairs"


def _bounds(row: Mapping[str, Any]) -> str:
    return interval((row.get("accuracy_low"), row.get("accuracy_high")))


def _results(evals: Json) -> str:
    if not evals:
        return ""
    rows = []
    for split, found in evals.items():
        last, best = found["last"], found["best"]
        rows.append(
            (
                split,
                f"{last['step']:,}",
                number(last, "loss"),
                si(last["perplexity"]) if last.get("perplexity") is not None else number(last, "perplexity"),
                number(last, "bits_per_byte"),
                number(last, "accuracy", 1, percent=True),
                _bounds(last),
                number(last, "pairs", 0),
                number(last, "ties", 0),
                number(last, "rewards/chosen", 3),
                number(last, "rewards/rejected", 3),
                number(last, "margin", 3),
                UNKNOWN if best is None else f"{best['loss']:.4f} at {best['step']:,}",
            )
        )
    scores = ("loss", "perplexity", "bits per byte", "accuracy, %", "95 % interval", "pairs", "ties")
    head = ("set", "step", *scores, "reward of chosen", "of rejected", "margin", "least loss")
    return "## Evaluation\n\n" + table(head, rows)


def _before_after(evals: Json) -> str:
    """What training gave and what it took away: in continual pretraining, the forgetting table."""
    head = ["set", *(word for _, name, *_ in MOVED for word in (f"{name} before", "after", "change"))]
    rows = []
    for split, found in evals.items():
        if found["before"] is not None:
            both = found["before"], found["last"]
            moves = [change(*both, name, places, percent) for name, _, places, percent in MOVED]
            rows.append([split, *itertools.chain.from_iterable(moves)])
    return "## Before and after\n\n" + table(head, rows) if rows else ""


def _parts(evals: Json) -> str:
    """Accuracy by subset, rating and margin, of all sets that tell them apart."""
    sections = []
    for key, what in PARTS.items():
        rows = []
        for split, found in evals.items():
            members = found.get("details", {}).get(key, {})
            if key == "by_rating":
                members = {RATINGS[rating]: members[rating] for rating in RATINGS if rating in members}
            for name, each in members.items():
                label = name if len(evals) == 1 else f"{split}: {name}"
                accuracy = (number(each, "accuracy", 1, percent=True), interval(each["interval"]))
                rows.append((label, f"{each['pairs']:,}", *accuracy, number(each, "lead", 3), f"{each['ties']:,}"))
        if rows:
            head = (what, "pairs", "accuracy, %", "95 % interval", "margin", "ties")
            sections.append(f"## Accuracy by {what}\n\n" + table(head, rows))
    return "\n\n".join(sections)


def _calibration(figures: Json) -> str:
    """Whether the probabilities that scores stand for hold."""
    images = [_image(figures, name, 400) for name in figures["plots"] if name.startswith("calibration_")]
    says = "On the dashed line, answers that the model calls better with a probability of p are so in p of the cases."
    return f"## Calibration\n\n{says}\n\n{' '.join(images)}" if images else ""


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """What the model writes, fenced so that nothing in it is read as Markdown."""
    if not samples:
        return ""
    blocks = []
    for sample in samples:
        prompt = sample.get("prompt", "")
        text = printable(prompt + sample.get("completion", ""))
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        after = f"after the prompt {code(prompt)}" if prompt else "without a prompt"
        blocks.append(f"Step {sample['step']:,}, {after}:\n\n{fence}text\n{text}\n{fence}")
    return "## Samples\n\n" + "\n\n".join(blocks)


def _data(figures: Json) -> str:
    """What became of the rows of conversations and judged answers."""
    found = figures["facts"].get("rows", {})
    if not found:
        return ""
    rows = []
    for name, counts in found.items():
        share = counts["trained"] / max(counts["tokens"], 1)
        left_out = ", ".join(losses(counts)) or UNKNOWN
        numbers = [f"{counts[key]:,}" for key in ("read", "used", "cut", "tokens")]
        rows.append((name, *numbers, f"{100 * share:.1f} %", left_out))
    head = ("set", "examples read", "used", "cut to fit", "tokens", "of them trained on", "left out")
    n = figures["quarantined"]
    aside = f"\n\nThe rows of the wrong form ({n:,}) are in [quarantine.jsonl](quarantine.jsonl)." if n else ""
    return f"## Data\n\n{table(head, rows)}{aside}"


def _run(figures: Json) -> str:
    train, facts = figures["train"], {name: fact for name, fact in figures["facts"].items() if name != "rows"}
    rows = [(key, code(value)) for key, value in figures["config"].items()]
    rows += [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in facts.items()]
    rows += rollouts.seconds_rows(figures["learnt"])
    speeds = {name: look for name, look in SPEEDS.items() if not (figures["learnt"] and name == "median_data_wait_ms")}
    rows += [(label, shown(train[name])) for name, (label, shown) in speeds.items() if train.get(name) is not None]
    return "## The run\n\n" + table(("", ""), rows) if rows else ""


def _image(figures: Json, name: str, width: int | None = None) -> str:
    caption = figures["plots"].get(name)
    if caption is None:
        return ""
    return f'<img src="plots/{name}" alt="{caption}" width="{width}">' if width else f"![{caption}](plots/{name})"
