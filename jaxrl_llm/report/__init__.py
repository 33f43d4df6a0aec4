"""The report of a run: report.md with plots/*.png, and the same figures as report.json.

Everything is read from the run directory, so that a report can be written again at any time: config.yaml, and what
`training.writers` keeps there.
"""

import json
from pathlib import Path

from jaxrl_llm import plots
from jaxrl_llm.errors import UserError
from jaxrl_llm.eval_plots import draw_calibration
from jaxrl_llm.report.collect import collect, curves
from jaxrl_llm.report.page import markdown
from jaxrl_llm.training.writers import METRICS, read_rows
from jaxrl_llm.types import Json


def write_report(workdir: Path) -> Path:
    """Write plots/, report.md and report.json into a run directory; returns the path of report.md.

    A run that was cut short, or has no evaluation or sample, has a shorter report.  Raises UserError where there is no
    metrics.jsonl.
    """
    if not (workdir / METRICS).is_file():
        raise UserError(f"{workdir} has no {METRICS}: it is not a run directory, or its run never began")
    rows = read_rows(workdir / METRICS)
    figures = collect(workdir, rows)
    folder = workdir / "plots"
    drawn = plots.draw(curves(rows), folder, figures["loss_unit"], figures["learnt"])
    figures["plots"] = drawn | calibrations(figures["evals"], folder)
    (workdir / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    report = workdir / "report.md"
    report.write_text(markdown(figures), encoding="utf-8")
    return report


def calibrations(evals: Json, folder: Path) -> dict[str, str]:
    """Draw the calibration of every set that has one; returns file name -> caption."""
    drawn = {}
    for number, (split, found) in enumerate(evals.items(), start=1):
        calibration = found.get("details", {}).get("calibration")
        if calibration and calibration["bins"]:
            # The name of a set may be no file name.
            name, caption = f"calibration_{number}.png", f"Calibration on {split}"
            draw_calibration(calibration, folder / name, caption)
            drawn[name] = caption
    return drawn
