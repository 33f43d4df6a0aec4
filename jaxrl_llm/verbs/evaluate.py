"""`evaluate MODEL --suite rewardbench | perplexity | task`: how well a model judges, predicts text, or answers."""

import argparse
import math
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.types import Json

HELP = (
    "Evaluate a model: which of two answers it finds better (RewardBench, own pairs), how well it predicts text, or "
    "how many problems of a task it solves."
)
OPTIONS = {  # of each suite, besides those that all have
    "rewardbench": ("data", "limit", "reference", "beta", "template", "max_length", "holdout_rows"),
    "perplexity": ("data", "limit", "length", "field"),
    "task": ("task", "problems", "n", "temperature", "max_new_tokens", "seed", "reward", "before", "template"),
}
LEAST = dict.fromkeys(("batch_size", "limit", "length", "holdout_rows", "problems", "n", "max_new_tokens"), 1)
LEAST |= {"max_length": 2, "seed": 0}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.usage = "jaxrl-llm evaluate MODEL --suite SUITE [OPTION ...]"
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a directory of Hugging Face or PEFT")
    parser.add_argument("--suite", required=True, choices=tuple(OPTIONS), metavar="SUITE", help=", ".join(OPTIONS))
    parser.add_argument("--data", nargs="+", metavar="FILE", help="of all suites but tasks; a text is a domain")
    parser.add_argument("--out", metavar="DIR", help="write report, plots and scores.jsonl there")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows at a time: 16, of a task 64")
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
    task = parser.add_argument_group("task")
    task.add_argument(
        "--task",
        nargs="+",
        metavar=("KIND", "KEY=VALUE"),
        help="e.g. arithmetic difficulty=1, gsm8k test_path=FILE; default: the task of the model's config",
    )
    task.add_argument("--problems", type=int, metavar="N", help="default: all, or 2000 where there is no end")
    task.add_argument("--n", type=int, metavar="N", help="samples of each: pass@k and maj@k")
    task.add_argument("--temperature", type=float, metavar="T", help="of the samples; default: 1")
    task.add_argument("--max-new-tokens", type=int, metavar="N", help="default: as trained, or 256")
    task.add_argument("--seed", type=int, metavar="N", help="of problems and samples; default: 0")
    task.add_argument("--reward", metavar="MODEL", help="a reward model: best of k samples by its score")
    task.add_argument("--before", metavar="MODEL", help="whose greedy answers are compared")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; returns 0."""
    check(args)

    from contextlib import nullcontext
    from pathlib import Path

    from rich.console import Console

    from jaxrl_llm import eval_report
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.parallel.distributed import is_main, main_first
    from jaxrl_llm.workdir import new_directory, refuse_taken

    runtime.start()
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
        f"--suite {args.suite} needs --data, files to evaluate on": args.suite != "task" and not args.data,
        "--beta must be above 0": args.beta is not None and not 0 < args.beta < math.inf,
        "--temperature must be above 0": args.temperature is not None and not 0 < args.temperature < math.inf,
        "--seed must be below 2**32": (args.seed or 0) >= 2**32,
        "--temperature and --reward are about samples, and there are none\n  mend: --n 8, say": (args.n or 1) == 1
        and (args.temperature is not None or args.reward is not None),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)


def measure(args: argparse.Namespace) -> "tuple[Json, list[Json]]":
    """The figures of the suite, and the scores of each question or problem, if it has such."""
    from jaxrl_llm import evaluation, task_evaluation

    names = sorted({*OPTIONS[args.suite], "batch_size"} - {"data"})
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.suite == "task":
        return task_evaluation.evaluate_task(args.model, **given)
    if args.suite == "perplexity":
        return evaluation.evaluate_perplexity(args.model, args.data, **given), []
    return evaluation.evaluate_rewardbench(args.model, args.data, **given)
