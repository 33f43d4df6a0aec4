"""Of reinforcement learning: what a run gained on tasks and where its time went, as figures and as sections."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl_llm.evals.generation import split_gain
from jaxrl_llm.report.tables import UNKNOWN, code, interval, minus, number, table
from jaxrl_llm.training.console import digits
from jaxrl_llm.training.screen import said, shortened
from jaxrl_llm.types import Json

EACH = 4  # best samples in the report, and as many worst ones
AVERAGED = ("score", "reward/combined", "kl", "kl_k3", "entropy", "ended", "length")
PHASES = {"sample": "sampling", "score": "scoring", "prepare": "preparing", "update": "updates"}


def learnt(train: Sequence[Mapping[str, Any]], config: Mapping[str, Any], seconds: float | None) -> Json | None:
    """What a run that learns from rollouts did; None for any other.

    Args:
        train: rows of metrics.jsonl, by step.
        config: the resolved one.
        seconds: that training took.

    Returns:
        `reward`: the metric that says how good the answers are: before normalisation, where there is one; `weights` of
        its parts by name; `kl_target`; `rounds`; `answers` of a round, where known; `first`: means of the first
        round's rows, `last`: of the last tenth of the rows; `seconds` of a round, and of what by PHASES.
    """
    rows = [row for row in train if "score" in row]
    if not rows:
        return None
    rollout = config.get("rollout") or {}
    rewards = rollout.get("rewards") or {}
    rounds = int(rows[-1].get("round", 0)) + 1
    first = [row for row in rows if row.get("round") == rows[0].get("round")]
    return {
        "reward": "score" if rewards.get("normalise", "none") == "none" else "reward/combined",
        "weights": {name: part.get("weight", 1.0) for name, part in (rewards.get("parts") or {}).items()},
        "kl_target": (rollout.get("kl") or {}).get("target"),
        "rounds": rounds,
        "answers": rollout["prompts"] * rollout["n"] if {"prompts", "n"} <= rollout.keys() else None,
        "first": _means(first),
        "last": _means(rows[-max(1, len(rows) // 10) :]),
        "seconds": _seconds(rows, rounds, seconds),
    }


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = {name: [row[name] for row in rows if _is_finite(row.get(name))] for name in AVERAGED}
    return {name: float(np.mean(found)) for name, found in values.items() if found}


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _seconds(rows: Sequence[Mapping[str, Any]], rounds: int, total: float | None) -> dict[str, float]:
    """Of a round, by PHASES: updates are what is left of it.  The first round compiles, so others speak for it."""
    by_round = {row["round"]: row for row in rows if "sample_s" in row}
    known = [row for number, row in by_round.items() if number > 0] or list(by_round.values())
    if not known or not total:
        return {}
    found = {name: float(np.mean([row[f"{name}_s"] for row in known])) for name in ("sample", "score", "prepare")}
    whole = max(total / rounds, sum(found.values()))
    return {"round": whole, **found, "update": whole - sum(found.values())}


def gains(evals: Mapping[str, Json]) -> Json:
    """Of each evaluated task: its row before training, or null, and the last one; and what the gain is made of.

    `gain` = `format` + `reasoning`, in shares of the problems: see `evals.generation.split_gain`.
    """
    found: Json = {}
    for name, each in evals.items():
        before, after = each["before"], each["last"]
        if "parsed" in after:
            found[name] = {"before": before, "after": after}
            if before is not None and _is_finite(before.get("accuracy")) and _is_finite(after.get("accuracy")):
                split = split_gain(_known(before), _known(after))
                found[name] |= {"gain": after["accuracy"] - before["accuracy"], **split}
    return found


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """As `split_gain` reads it: what is not finite is null in JSON."""
    return {name: math.nan if row.get(name) is None else row[name] for name in ("parsed", "accuracy_of_parsed")}


def newest(samples: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Of the newest round that has samples: all, or the best and the worst, by reward; without their token ids."""
    rated = [row for row in samples if "reward" in row]
    if not rated:
        return []
    rows = [row for row in rated if row["round"] == rated[-1]["round"]]
    rows.sort(key=lambda row: -row["reward"])
    shown = rows if len(rows) <= 2 * EACH else rows[:EACH] + rows[-EACH:]
    return [{name: x for name, x in row.items() if name != "tokens"} | {"length": len(row["tokens"])} for row in shown]


def summary(found: Json) -> str:
    """A sentence: reward, KL, ends."""
    first, last, reward = found["first"], found["last"], found["reward"]
    said_of_reward = "reward" if reward == "score" else "reward before normalisation"
    text = f"At the end: {said_of_reward} **{number(last, reward, 3)}** ({number(first, reward, 3)} in the first round)"
    if "kl" in last:
        target = f" (target {found['kl_target']:g})" if found["kl_target"] is not None else ""
        text += f", KL to the reference **{number(last, 'kl', 2)}** nats an answer{target}"
    if "ended" in last:
        text += f"; {number(last, 'ended', 1, percent=True)} % of the answers ended by themselves"
    return f"{text}, {number(last, 'length', 0)} tokens long." if "length" in last else f"{text}."


def accuracy(gained: Json) -> str:
    """A sentence: how many problems are solved."""
    parts = []
    for name, found in gained.items():
        before, after = found["before"] or {}, found["after"]
        was = "" if "accuracy" not in before else f" ({number(before, 'accuracy', 1, percent=True)} % before)"
        bounds = interval((after.get("accuracy_low"), after.get("accuracy_high")))
        within = "" if bounds == UNKNOWN else f", 95 % interval {bounds}"
        count = f", {after['problems']:,.0f} problems" if "problems" in after else ""
        parts.append(f"{name} **{number(after, 'accuracy', 1, percent=True)} %**{was}{within}{count}")
    return f"Held-out problems solved: {'; '.join(parts)}."


def gain_section(gained: Json) -> str:
    """What training gave on each task, and how much of it is form."""
    if not gained:
        return ""
    rows = []
    for name, found in gained.items():
        before, after = found["before"] or {}, found["after"]
        rows.append(
            (
                name,
                number(before, "accuracy", 1, percent=True),
                number(after, "accuracy", 1, percent=True),
                interval((after.get("accuracy_low"), after.get("accuracy_high"))),
                *(_points(found, part) for part in ("gain", "format", "reasoning")),
                *(number(row, part, 1, percent=True) for part in ("parsed", "ended") for row in (before, after)),
                number(after, "problems", 0),
            )
        )
    ends = ("answer parsed before, %", "after", "ended before, %", "after")
    head = ("task", "accuracy before, %", "after", "95 % interval", "gain, points", "of it format", "reasoning")
    says = "Format: more answers can be read at all.  Reasoning: of those that can, more are right."
    known = any("gain" in found for found in gained.values())
    return "## Gain\n\n" + table((*head, *ends, "problems"), rows) + f"\n\n{says}" * known


def _points(found: Mapping[str, Any], name: str) -> str:
    return minus(f"{100 * found[name]:+.1f}") if name in found else UNKNOWN


def samples_section(samples: Sequence[Mapping[str, Any]]) -> str:
    """Answers with their rewards, the best first."""
    if not samples:
        return ""
    parts = list(dict.fromkeys(name for row in samples for name in row["parts"]))
    head = ("prompt", "answer", "reward", *parts, "ended", "tokens")
    rows = [
        (
            code(shortened(said(row["prompt"]), 160)),
            code(shortened(row["completion"], 320)),
            number(row, "reward", 3),
            *(number(row["parts"], name, 3) for name in parts),
            "yes" if row["ended"] else "no",
            str(row["length"]),
        )
        for row in samples
    ]
    first = samples[0]
    says = f"Round {first['round']:,}, step {first['step']:,}; the best first."
    return f"## Answers and their rewards\n\n{says}\n\n{table(head, rows, left=2)}"


def seconds_rows(found: Json | None) -> list[tuple[str, str]]:
    """For the table of the run: where the time of a round went."""
    if not found or not found["seconds"]:
        return []
    seconds = found["seconds"]
    whole = seconds["round"]
    rows = [("seconds a round", digits(whole))]
    for name, what in PHASES.items():
        rows.append((f"of them {what}", f"{digits(seconds[name])} ({100 * seconds[name] / whole:.0f} %)"))
    return rows
