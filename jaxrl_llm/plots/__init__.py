"""The plots of a report: drawn from the rows of metrics.jsonl, without a display."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jaxrl_llm.plots import rollouts, training
from jaxrl_llm.plots.look import EVALS, INK, TRAIN, Curve, Curves, dress

__all__ = ["EVALS", "INK", "TRAIN", "Curve", "Curves", "draw", "dress"]


def draw(curves: Curves, directory: Path, loss_unit: str, learnt: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write what can be drawn as PNG files into the directory; returns file name -> caption, in reading order.

    `curves` have an algorithm's accuracy and margin by these names; `loss_unit` is what the loss is a mean over;
    `learnt` is what `report.rollouts.learnt` says of a run that learns from rollouts, whose own losses say nothing.
    """
    train = curves.get("train", {})
    tasks = {split: metrics for split, metrics in curves.items() if "parsed" in metrics}
    texts = {split: metrics for split, metrics in curves.items() if split != "train" and split not in tasks}
    own = train if learnt is None else {}
    figures: dict[str, tuple[str, Figure | None]] = {
        "rl.png": ("Reward, KL and accuracy", rollouts.course(train, tasks, learnt) if learnt else None),
        "tasks.png": ("Accuracy on tasks", None if learnt else rollouts.accuracy_alone(tasks)),
        "loss.png": ("Loss", training.loss(own, texts, loss_unit)),
        "accuracy.png": ("Accuracy", training.accuracy(own, texts)),
        "rewards.png": ("Rewards of better and worse answers", training.rewards({"training": own, **texts})),
        "domains.png": ("Evaluation by domain", training.domains(texts)),
        "health.png": ("Health of the rollouts", rollouts.health(train) if learnt else None),
        "learning_rate.png": ("Learning rate", training.learning_rate(train)),
        "throughput.png": ("Throughput", training.throughput(train)),
    }
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, (caption, figure) in figures.items():
        if figure is not None:
            figure.savefig(directory / name, dpi=160)
            drawn[name] = caption
    return drawn
