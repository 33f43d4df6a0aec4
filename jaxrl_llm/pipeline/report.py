"""The report of a pipeline: WORKDIR/report.md with plots/stages.png, and the same figures as report.json.

A pipeline that shares its directory with others has them with a name of its own, as report_NAME.md.

Everything is read from what the stages left, so it can be written at any time: while some have yet to run, when one
failed, and again when all were skipped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl_llm.pipeline.draw import draw
from jaxrl_llm.pipeline.expectations import unmet
from jaxrl_llm.pipeline.figures import ACCURACY, SHOWN, Figures, figures_of, moved
from jaxrl_llm.pipeline.planning import Pipeline
from jaxrl_llm.pipeline.stage import Stage
from jaxrl_llm.report.tables import UNKNOWN, code, interval, minus, table
from jaxrl_llm.training.console import duration
from jaxrl_llm.types import Json


def write_report(pipeline: Pipeline, problem: str | None = None) -> Path:
    """Write plots/, report.md and report.json into the pipeline's directory; returns the path of report.md.

    `problem`: why it did not come to its end.
    """
    found = collect(pipeline, problem)
    root = pipeline.workdir
    figure = draw(found["stages"])
    if figure is not None:
        (root / "plots").mkdir(exist_ok=True)
        picture = f"{pipeline.report.replace('report', 'stages')}.png"
        figure.savefig(root / "plots" / picture, dpi=160)
        found["plots"] = {picture: "Accuracy through the stages"}
    (root / f"{pipeline.report}.json").write_text(
        json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    page = root / f"{pipeline.report}.md"
    page.write_text(markdown(found), encoding="utf-8")
    return page


def collect(pipeline: Pipeline, problem: str | None) -> Json:
    """All figures of the report.

    `stages`: by name, `verb`, `kind` (the algorithm, the suite), `state` (done or to run), `seconds`, `directory`,
    `before` and `after` (flat numbers, or null), `sets` (the same of each held-out set), `expect`, `unmet`, `report`.
    """
    stages = {stage.name: _stage(stage, pipeline.workdir) for stage in pipeline.stages}
    seconds = [each["seconds"] for each in stages.values() if each["seconds"] is not None]
    return {
        "name": pipeline.name,
        "workdir": str(pipeline.workdir),
        "problem": problem,
        "done": all(each["state"] == "done" for each in stages.values()) and problem is None,
        "seconds": sum(seconds),
        "stages": stages,
        "next": pipeline.next,
        "plots": {},
    }


def _stage(stage: Stage, root: Path) -> Json:
    done = stage.done()
    found = figures_of(stage) if done else Figures()
    expect = {
        name: {key: bound for key, bound in vars(each).items() if bound is not None}
        for name, (each, _) in (stage.expect or {}).items()
    }
    return {
        "verb": stage.verb,
        "kind": stage.kind,
        "description": stage.description,
        "command": stage.command,
        "state": "done" if done else "to run",
        "seconds": None if done is None else done.get("seconds"),
        "directory": str(stage.directory),
        "before": found.before or None,
        "after": found.after or None,
        "sets": found.sets,
        "expect": expect,
        "unmet": dict(unmet(stage, found)) if done else {},
        "report": str(found.report.relative_to(root)) if found.report is not None else None,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """report.md from the figures of report.json."""
    stages, image = found["stages"], "".join(f"![{caption}](plots/{name})" for name, caption in found["plots"].items())
    n_done = sum(each["state"] == "done" for each in stages.values())
    whole = f"{n_done} of {len(stages)} stages done, {duration(found['seconds'])} in all."
    commands = "\n".join(found["next"])
    sections = [
        f"# {found['name']}",
        whole,
        f"**It did not come to its end.**\n\n```text\n{found['problem']}\n```" if found["problem"] else "",
        image,
        "## Stages\n\n" + _table(stages),
        _descriptions(stages),
        _expected(stages),
        _sets(stages),
        "## Commands\n\n```bash\n" + "\n".join(each["command"] for each in stages.values()) + "\n```",
        f"## Next\n\n```bash\n{commands}\n```" if commands and found["done"] else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(stages: Mapping[str, Json]) -> str:
    head = ["stage", "what", "time"]
    for name, (title, _, _, unit) in SHOWN.items():
        head += [f"{title},{unit}" if unit else title, *(["95 % interval"] if name == "accuracy" else [])]
    rows = []
    for name, each in stages.items():
        before, after = each["before"] or {}, each["after"] or {}
        link = f"[{name}]({each['report']})" if each["report"] else name
        spent = UNKNOWN if each["seconds"] is None else duration(each["seconds"])
        row = [
            link,
            " ".join(filter(None, (each["verb"], each["kind"]))),
            spent if each["state"] == "done" else "to run",
        ]
        for figure in SHOWN:
            text = moved(figure, before, after, "→")
            row += [UNKNOWN if text is None else minus(text)]
            row += [interval([after.get(end) for end in ACCURACY[1:]])] if figure == "accuracy" else []
        rows.append(row)
    return table(head, rows, left=2)


def _descriptions(stages: Mapping[str, Json]) -> str:
    return "\n".join(f"- {name}: {each['description']}" for name, each in stages.items() if each["description"])


def _expected(stages: Mapping[str, Json]) -> str:
    """What was expected, and whether it came true."""
    rows = []
    for name, each in stages.items():
        for figure, bounds in each["expect"].items():
            says = ", ".join(f"{word} {bound:g}" for word, bound in bounds.items())
            holds = "to come" if each["state"] != "done" else "no" if figure in each["unmet"] else "yes"
            rows.append((name, figure, minus(says), holds))
    return "## Expected\n\n" + table(("stage", "figure", "what it must come to", "holds"), rows, left=3) if rows else ""


def _sets(stages: Mapping[str, Json]) -> str:
    """Before and after on every held-out set, where a stage has several."""
    rows = []
    for name, each in stages.items():
        for split, sides in each["sets"].items() if len(each["sets"]) > 1 else ():
            texts = [moved(figure, sides["before"] or {}, sides["after"], "→") for figure in SHOWN]
            if any(texts):
                rows.append((name, code(split), *(UNKNOWN if text is None else minus(text) for text in texts)))
    head = ("stage", "set", *(f"{title},{unit}" if unit else title for title, _, _, unit in SHOWN.values()))
    return "## By held-out set\n\n" + table(head, rows, left=2) if rows else ""
