"""What rejection sampling did, in numbers: how many answers passed which filter, and what the chosen are worth."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl_llm.evals.generation import sampled
from jaxrl_llm.reject.choose import Chosen, equations_of
from jaxrl_llm.reject.pool import Asked, Candidate
from jaxrl_llm.tasks import Task
from jaxrl_llm.types import Json

BINS = 24  # of the histogram of scores


def figures_of(pool: Sequence[Asked], chosen: Sequence[Chosen], task: Task | None) -> Json:
    """Everything but how long it took.

    Returns:
        `prompts`, `answers`, `filters` (name -> answers that it stopped), `selected`, and `human` besides these;
        `pairs`, `contrast` (prompts that gave no pair, by reason); `before` and `after`: `accuracy` and `score` of an
        answer and of a selected one, where known, a prompt counting once; `by_model`; `reward_accuracy`: how often a
        right answer scores above a wrong one to the same prompt; `paths`: right answers with different equations a
        prompt; `samples`, of `evals.generation.sampled`, where every prompt has as many answers; `scores`: histograms.
        But in `human` only answers of models count.
    """
    drawn = [[each for each in asked.candidates if not each.human] for asked in pool]
    kept = [[asked.candidates[i] for i in each.selected] for asked, each in zip(pool, chosen, strict=True)]
    selected = [[each for each in row if not each.human] for row in kept]
    answers = [each for candidates in drawn for each in candidates]
    models = dict.fromkeys(each.model for each in answers)
    stopped: Counter[str] = Counter()
    contrast: Counter[str] = Counter()
    for each in chosen:
        stopped.update(each.stopped)
        contrast.update([each.without_pair] if each.without_pair else [])
    return {
        "prompts": {
            "asked": len(pool),
            "with answers": sum(map(bool, drawn)),
            "with a selected one": sum(map(bool, kept)),
        },
        "answers": len(answers),
        "filters": dict(stopped),
        "selected": sum(map(len, selected)),
        "human": sum(each.human for row in kept for each in row),
        "pairs": sum(len(each.pairs) for each in chosen),
        "contrast": dict(contrast),
        "before": worth(drawn),
        "after": worth(selected),
        "by_model": {name: worth([[each for each in row if each.model == name] for row in drawn]) for name in models},
        "reward_accuracy": reward_accuracy(drawn),
        "paths": paths_of(drawn),
        "samples": samples_of(drawn, task),
        "scores": histograms(answers, [each for row in selected for each in row]),
    }


def worth(rows: Sequence[Sequence[Candidate]]) -> dict[str, float]:
    """Means over prompts of the means over their answers: `accuracy`, `score`, `ended`, as far as they are known."""
    found = {"answers": float(sum(map(len, rows)))}
    reads: Mapping[str, Callable[[Candidate], float | bool | None]] = {
        "accuracy": lambda each: each.right,
        "score": lambda each: each.score,
        "ended": lambda each: each.ended,
    }
    for name, of in reads.items():
        values = [[float(value) for each in row if (value := of(each)) is not None] for row in rows]
        means = [float(np.mean(row)) for row in values if row]
        if means:
            found[name] = float(np.mean(means))
    return found


def reward_accuracy(rows: Sequence[Sequence[Candidate]]) -> Json | None:
    """How often a right answer scores above a wrong one to the same prompt, ties half; a prompt counts once."""
    shares = []
    for row in rows:
        right, wrong = (
            [each.score for each in row if each.right is kind and each.score is not None] for kind in (True, False)
        )
        if right and wrong:
            apart = np.subtract.outer(np.asarray(right), np.asarray(wrong))
            shares.append(float(np.mean((apart > 0) + 0.5 * (apart == 0))))
    return {"accuracy": float(np.mean(shares)), "prompts": len(shares)} if shares else None


def paths_of(rows: Sequence[Sequence[Candidate]]) -> float | None:
    """Different lists of equations among the right answers to a prompt, on average; None where nothing is graded."""
    graded = [row for row in rows if any(each.right is not None for each in row)]
    counts = [len({equations_of(each.text) for each in row if each.right}) for row in graded]
    return float(np.mean(counts)) if counts else None


def samples_of(rows: Sequence[Sequence[Candidate]], task: Task | None) -> Json | None:
    """pass@k, maj@k and best of k, where all prompts have the same number of graded answers, at least two."""
    n = {len(row) for row in rows}
    if task is None or len(n) != 1 or min(n) < 2 or any(each.right is None for row in rows for each in row):
        return None
    right_BN = np.asarray([[each.right for each in row] for row in rows])
    scores = [[each.score for each in row] for row in rows]
    known = all(score is not None for row in scores for score in row)
    answers = [[task.parse(each.text) for each in row] for row in rows]
    return sampled(right_BN, answers, np.asarray(scores, np.float64) if known else None)


def histograms(drawn: Sequence[Candidate], selected: Sequence[Candidate]) -> Json | None:
    """Shares of the drawn and of the selected answers by score, over the same bins; None where nothing rates."""
    scores, best = ([each.score for each in group if each.score is not None] for group in (drawn, selected))
    if not scores or min(scores) == max(scores):
        return None
    edges = np.histogram_bin_edges(np.asarray(scores), BINS)
    found: dict[str, Any] = {"edges": edges.tolist()}
    for name, each in (("drawn", scores), ("selected", best)):
        counts = np.histogram(np.asarray(each), edges)[0]
        found[name] = (counts / max(counts.sum(), 1)).tolist()
    return found
