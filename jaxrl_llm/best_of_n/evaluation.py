"""`evaluate --suite best-of-n`: reward, wins and accuracy of the best of n samples, beside its KL and other policies.

One model at a time is in memory: the other policies, the base, the judges.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.alike import same_texts
from jaxrl_llm.best_of_n.answers import Answers, visit
from jaxrl_llm.best_of_n.judge import check_judge, open_judge, score
from jaxrl_llm.best_of_n.questions import Questions, check_room, find_policy, name_runs, open_questions
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.evals.best_of_n import curve, point, ties
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.task_evaluation import SLOTS
from jaxrl_llm.tasks.task import grade_all
from jaxrl_llm.types import Json

Values = dict[str, np.ndarray]  # what is known of answers: [B, N] each

MOST = 64  # n, unless said otherwise
RUN_SAMPLES = 4  # answers of another policy to each prompt


def evaluate_best_of_n(
    path: str,
    data: Sequence[str] | None = None,
    *,
    reward: str,
    judge: str | None = None,
    against: Sequence[str] = (),
    task: Sequence[str] | None = None,
    n: int = MOST,
    problems: int | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    template: str | None = None,
    batch_size: int | None = None,
) -> tuple[Json, list[Json]]:
    """What the best of n samples of a policy is worth, for every n from one pool; and what other policies are.

    Args:
        path: the base, which is sampled from at temperature 1; see `saved.open_model`.
        data: files of prompts; None: problems of a task.
        reward: the reward model that chooses.
        judge: another reward model, which says who wins.
        against: policies of the same tokenizer, which give RUN_SAMPLES answers to each prompt.
        task: as of `task_evaluation.evaluate_task`, the test split.
        n: the most samples that the best is taken of; the pool holds one more a prompt, to compare it with.
        problems: how many prompts; None: `questions.PROBLEMS`, or all where there are fewer.
        max_new_tokens: longest answer; None: as in the config that has the task, else `task_evaluation.LONGEST`.
        seed: of problems and samples.
        template: in which all are asked; None: the base's.
        batch_size: answers that are written, or scored, at a time; None: SLOTS.

    Returns:
        `suite`, `model`, `reward`, `judge`, `task`, `n`, `prompts`, `ties`, `notes`; `best_of`: n -> figures of
        `evals.best_of_n.curve`; `runs`: name -> `model` and figures of `evals.best_of_n.point`.
        And a row for each prompt: {origin, prompt, samples, runs}, of each answer {text, tokens, reward, judge, right},
        of another policy's also {logp, base_logp}.

    Raises:
        UserError: of models, prompts and numbers that are not as described, before anything is sampled.
    """
    size, base, mesh = batch_size or SLOTS, find_policy(path), make_mesh(MeshConfig())
    tokenizer = base.card.tokenizer
    how = {"data": data, "task": task, "problems": problems, "max_new_tokens": max_new_tokens}
    asked = open_questions(path, tokenizer, seed=seed, template=template, **how)  # type: ignore[arg-type]
    same_texts({"prompts": asked.prompts})
    runs, judges = name_runs(against), {"reward": reward} | ({} if judge is None else {"judge": judge})
    saved = {path: base} | {run: find_policy(run, tokenizer) for run in runs.values()}
    for name, policy in saved.items():
        check_room(asked, name, policy.config.model.context)
    for each in judges.values():
        check_judge(each, mesh, tokenizer, asked.prompts[0])

    answers, logps = {}, {}
    for name, run in runs.items():
        answers[name], (logps[name],) = visit(run, asked, RUN_SAMPLES, (seed + 1) % 2**32, size, name)
    pool, base_logps = visit(path, asked, n + 1, seed, size, "the base", [*answers.values()])
    warnings: list[str] = []
    of_pool, *of_runs = rate([pool, *answers.values()], asked, judges, mesh, tokenizer, size, warnings.append)
    for of_run, logp, base_logp in zip(of_runs, logps.values(), base_logps, strict=True):
        of_run |= {"logp": logp, "base_logp": base_logp}
    measured = dict(zip(runs, of_runs, strict=True))
    figures: Json = {
        "suite": "best-of-n",
        "model": path,
        "reward": reward,
        "judge": judge,
        "task": asked.settings,
        "n": n,
        "prompts": len(asked.prompts),
        "ties": ties(of_pool["reward"]),
        "best_of": curve(of_pool["reward"], {k: v for k, v in of_pool.items() if k != "reward"}, n),
        "runs": {
            name: {"model": runs[name], **compare(of_run, of_pool, answers[name])} for name, of_run in measured.items()
        },
    }
    others = [run for run in runs.values() if find_template(saved[run].card.tokenizer).source != asked.template.source]
    figures["notes"] = [*notes(figures, asked, seed, data, others if template is None else []), *warnings]
    rows = [
        {
            "origin": prompt.origin,
            "prompt": prompt.said,
            "samples": _rows(pool, of_pool, b),
            "runs": {name: _rows(answers[name], of_run, b) for name, of_run in measured.items()},
        }
        for b, prompt in enumerate(asked.prompts)
    ]
    return figures, rows


def rate(
    everyone: Sequence[Answers],
    asked: Questions,
    judges: Mapping[str, str],
    mesh: Mesh,
    tokenizer: Tokenizer,
    size: int,
    warn: Callable[[str], None],
) -> list[Values]:
    """Of each policy's answers what every judge gives them, and of a task `grade`, whether they are right.

    Equal answers of whichever policy are rated once.
    """
    texts = [[text for each in everyone for text in each.texts[b]] for b in range(len(asked.prompts))]
    values, first = {}, asked.prompts[0]
    for kind, path in judges.items():
        judge = open_judge(path, mesh, tokenizer, first, batch_size=size, longest=asked.longest, warn=warn)
        values[kind] = score(judge, asked.prompts, texts, f"scoring by {path}")
        del judge  # its memory is the next one's
    if asked.task is not None:
        values["grade"] = grade(asked, texts)
    ends = np.cumsum([len(each.texts[0]) for each in everyone])[:-1]
    parts = {kind: np.split(value_BK, ends, axis=1) for kind, value_BK in values.items()}
    return [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]


def compare(of_run: Values, of_pool: Values, answers: Answers) -> Json:
    """Figures of another policy; see `evals.best_of_n.point`."""
    kl_BN = of_run["logp"] - of_run["base_logp"]
    return point(kl_BN, {kind: of_run[kind] for kind in of_pool}, of_pool, answers.length_BN)


def grade(asked: Questions, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """bool [B, N]: which answers are right."""
    assert asked.task is not None
    examples = [prompt.example for prompt, row in zip(asked.prompts, texts, strict=True) for _ in row]
    grades = grade_all(asked.task, [text for row in texts for text in row], [e for e in examples if e is not None])
    return grades.reshape(len(texts), -1) == 1.0


def notes(figures: Json, asked: Questions, seed: int, data: Sequence[str] | None, others: Sequence[str]) -> list[str]:
    """What the figures are of, and which of them are bounds."""
    n, said = figures["n"], asked.prompts[0].said
    where = f"the test split (seed {seed})" if data is None else ", ".join(data)
    how = "text to go on with" if isinstance(said, str) else f"asked by the template {asked.template.name}"
    judges = [f"{name} by {figures[name]}" for name in ("reward", "judge") if figures[name] is not None]
    tied = f"  Of the pairs of samples of a prompt {100 * figures['ties']:.1f} % have equal rewards."
    return [
        f"{figures['prompts']:,} prompts of {where}, {how}; answers of up to {asked.max_new_tokens:,} tokens at "
        f"temperature 1; {', '.join(judges)}.  Intervals are of 95 %, over prompts.",
        f"Estimated: reward, wins and accuracy of the best of n, each the mean over all choices of n of the {n + 1} "
        f"samples of a prompt.  It is compared with another of these samples; a tie is half a win.{tied}",
        "Bounds: KL(best of n ‖ base) <= log n − (n − 1)/n nats an answer; and a win rate of n/(n + 1) by the reward "
        "that chose, which ties alone take it below.",
        *(
            [
                f"A run: {RUN_SAMPLES} samples of each prompt.  Its KL to the base is estimated, by the mean of log p "
                "of the run less log p of the base over its own answers; it wins over single samples of the base."
            ]
            if figures["runs"]
            else []
        ),
        *(
            f"{run} was trained with another chat template, and is asked by the base's."
            for run in others
            if not isinstance(said, str)
        ),
    ]


def _rows(answers: Answers, values: Mapping[str, np.ndarray], b: int) -> list[Json]:
    """The answers to one prompt with all that is known of them."""
    return [
        {"text": text, "tokens": len(ids)}
        | {("right" if kind == "grade" else kind): value_BN[b, i].item() for kind, value_BN in values.items()}
        for i, (text, ids) in enumerate(zip(answers.texts[b], answers.tokens[b], strict=True))
    ]
