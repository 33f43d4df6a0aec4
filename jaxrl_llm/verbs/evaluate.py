"""`evaluate MODEL --suite rewardbench | perplexity`: how well a model tells better answers, or predicts text."""

import argparse
import math
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.types import Json

HELP = "Evaluate a model: which of two answers it finds better (RewardBench, own pairs), or how well it predicts text."
ONLY = {  # options that one suite has and the other has not
    "rewardbench": ("reference", "beta", "template", "max_length", "holdout_rows"),
    "perplexity": ("length", "field"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a run directory, RUN/checkpoints/STEP, or a directory of Hugging Face or PEFT"
    )
    parser.add_argument("--suite", required=True, choices=tuple(ONLY))
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="FILE",
        help="files of RewardBench, of LLMBar, or of preferences as one trains on; perplexity: texts, each a domain",
    )
    parser.add_argument("--out", metavar="DIR", help="write report.md, report.json, plots and scores.jsonl there")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows at a time; default: 16")
    parser.add_argument("--limit", type=int, metavar="N", help="only N questions a subset, or N rows a text")
    rewardbench = parser.add_argument_group("rewardbench")
    rewardbench.add_argument(
        "--reference",
        metavar="MODEL",
        help="of a language model, what its log-probabilities are compared with; default: what it was trained from; "
        "none: nothing",
    )
    rewardbench.add_argument("--beta", type=float, help="of that reward; default: the one it was trained with, or 0.1")
    rewardbench.add_argument("--template", metavar="NAME", help="a chat template or a file; default: the model's")
    rewardbench.add_argument("--max-length", type=int, metavar="N", help="tokens of a text; default: the context")
    rewardbench.add_argument("--holdout-rows", type=int, metavar="N", help="only the last N rows of each file")
    perplexity = parser.add_argument_group("perplexity")
    perplexity.add_argument("--length", type=int, metavar="T", help="tokens of a row; default: the context")
    perplexity.add_argument("--field", metavar="NAME", help="of JSON rows, that holds the text; default: text")


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
    for suite, names in ONLY.items():
        for name in names:
            if suite != args.suite and getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is of --suite {suite}, and this is {args.suite}")
    for name, least in {"batch_size": 1, "limit": 1, "max_length": 2, "length": 1, "holdout_rows": 1}.items():
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
    if args.beta is not None and not 0 < args.beta < math.inf:
        raise UserError("--beta must be above 0")


def measure(args: argparse.Namespace) -> "tuple[Json, list[Json]]":
    """The figures of the suite, and the scores of each question, if it has questions."""
    from jaxrl_llm import evaluation

    shared = {"batch_size": args.batch_size, "limit": args.limit}
    if args.suite == "perplexity":
        return evaluation.evaluate_perplexity(
            args.model, args.data, length=args.length, field=args.field or "text", **shared
        ), []
    chosen = {name: getattr(args, name) for name in ONLY["rewardbench"]}
    return evaluation.evaluate_rewardbench(args.model, args.data, **chosen, **shared)
