"""`evaluate MODEL --suite rewardbench | perplexity | task | best-of-n`: how well it judges, predicts text, answers."""

import argparse
import functools
import math
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.types import Json

HELP = (
    "Evaluate a model: which of two answers it finds better, how well it predicts text, how many problems it solves, "
    "what the best of n of its answers is worth."
)
OPTIONS = {  # of each suite, besides those that all have
    "rewardbench": ("data", "limit", "reference", "beta", "template", "max_length", "holdout_rows"),
    "perplexity": ("data", "limit", "length", "field"),
    "task": ("task", "problems", "n", "temperature", "max_new_tokens", "seed", "reward", "before", "template"),
    "best-of-n": (
        *("data", "task", "problems", "n", "max_new_tokens", "seed", "reward", "judge", "against", "template"),
    ),
}
LEAST = dict.fromkeys(("batch_size", "limit", "length", "holdout_rows", "problems", "n", "max_new_tokens"), 1)
LEAST |= {"max_length": 2, "seed": 0}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.formatter_class = functools.partial(argparse.HelpFormatter, max_help_position=27)  # a line an option
    parser.usage = "jaxrl-llm evaluate MODEL --suite SUITE [OPTION ...]"
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, or Hugging Face's or PEFT's")
    parser.add_argument("--suite", required=True, choices=tuple(OPTIONS), metavar="SUITE", help=", ".join(OPTIONS))
    parser.add_argument("--data", nargs="+", metavar="FILE", help="files to evaluate on; a text is a domain")
    parser.add_argument("--out", metavar="DIR", help="write report, plots and scores.jsonl there")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows or answers at a time: 16 or 64")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a subset, or rows a text")
    parser.add_argument("--template", metavar="NAME", help="or a file; default: the model's")
    rewardbench = parser.add_argument_group("rewardbench (also LLMBar, and preferences as one trains on)")
    rewardbench.add_argument("--reference", metavar="MODEL", help="default: what it was trained from; none: nothing")
    rewardbench.add_argument("--beta", type=float, help="of that reward; default: as trained, or 0.1")
    rewardbench.add_argument("--max-length", type=int, metavar="N", help="tokens of a text; default: the context")
    rewardbench.add_argument("--holdout-rows", type=int, metavar="N", help="only the last N rows of each file")
    perplexity = parser.add_argument_group("perplexity")
    perplexity.add_argument("--length", type=int, metavar="T", help="tokens of a row; default: the context")
    perplexity.add_argument("--field", metavar="NAME", help="of JSON rows, with the text; default: text")
    task = parser.add_argument_group("task; best-of-n, of a task or of prompts in --data")
    task.add_argument(
        "--task",
        nargs="+",
        metavar=("KIND", "KEY=VALUE"),
        help="e.g. arithmetic difficulty=1; default: the model's own",
    )
    task.add_argument("--problems", type=int, metavar="N", help="default: all, or 2000 without end; best-of-n: 500")
    task.add_argument("--n", type=int, metavar="N", help="samples of each: pass@k and maj@k; best-of-n: 64")
    task.add_argument("--temperature", type=float, metavar="T", help="of the samples; default: 1")
    task.add_argument("--max-new-tokens", type=int, metavar="N", help="default: as trained, or 256")
    task.add_argument("--seed", type=int, metavar="N", help="of problems and samples; default: 0")
    task.add_argument("--reward", metavar="MODEL", help="a reward model: the best of k samples by its score")
    task.add_argument("--before", metavar="MODEL", help="task: whose greedy answers are compared")
    task.add_argument("--judge", metavar="MODEL", help="best-of-n: another one, which says who wins")
    task.add_argument("--against", nargs="+", metavar="RUN", help="best-of-n: runs from it, their reward and KL")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; returns 0."""
    check(args)

    from contextlib import nullcontext
    from pathlib import Path

    from rich.console import Console

    from jaxrl_llm import eval_report
    from jaxrl_llm.alike import same_arguments, same_models
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.parallel.distributed import is_main, main_first
    from jaxrl_llm.workdir import new_directory, refuse_taken

    runtime.start()
    same_arguments(vars(args))
    others = [None if args.reference == "none" else args.reference, args.reward, args.before, args.judge]
    same_models([args.model, *others, *(args.against or [])])
    if args.out:
        main_first(lambda: refuse_taken(Path(args.out)))
    with new_directory(Path(args.out)) if args.out and is_main() else nullcontext() as draft:
        figures, scores = measure(args)
        if draft:
            eval_report.write(figures, scores, draft)
    if is_main():
        eval_report.show(figures, Console())
        if args.out:
            print(f"-> {Path(args.out) / 'report.md'}")
    return 0


def check(args: argparse.Namespace) -> None:
    """A UserError for options that mean nothing here."""
    for name in sorted({name for names in OPTIONS.values() for name in names} - {*OPTIONS[args.suite]}):
        if getattr(args, name) is not None:
            suites = " and ".join(suite for suite, names in OPTIONS.items() if name in names)
            raise UserError(f"--{name.replace('_', '-')} is of --suite {suites}, and this is {args.suite}")
    for name, least in LEAST.items():
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
    wrong = {
        f"--suite {args.suite} needs --data, files to evaluate on": "task" not in OPTIONS[args.suite] and not args.data,
        "--data and --task exclude each other": bool(args.data and args.task),
        "--suite best-of-n needs --reward, the reward model that chooses": args.suite == "best-of-n"
        and args.reward is None,
        "--n must be at least 2: the best of one is no choice": args.suite == "best-of-n" and args.n == 1,
        "--beta must be above 0": args.beta is not None and not 0 < args.beta < math.inf,
        "--temperature must be above 0": args.temperature is not None and not 0 < args.temperature < math.inf,
        "--seed must be below 2**32": (args.seed or 0) >= 2**32,
        "--temperature and --reward are about samples, and there are none\n  mend: --n 8, say": args.suite == "task"
        and (args.n or 1) == 1
        and (args.temperature is not None or args.reward is not None),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)


def measure(args: argparse.Namespace) -> "tuple[Json, list[Json]]":
    """The figures of the suite, and the scores of each question or problem, if it has such."""
    from jaxrl_llm import evaluation, task_evaluation
    from jaxrl_llm.best_of_n.evaluation import evaluate_best_of_n

    names = sorted({*OPTIONS[args.suite], "batch_size"} - {"data"})
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.suite == "task":
        return task_evaluation.evaluate_task(args.model, **given)
    if args.suite == "best-of-n":
        return evaluate_best_of_n(args.model, args.data, **given)
    if args.suite == "perplexity":
        return evaluation.evaluate_perplexity(args.model, args.data, **given), []
    return evaluation.evaluate_rewardbench(args.model, args.data, **given)
