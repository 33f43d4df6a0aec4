"""What `data task` writes: a task's problems as rows to fine-tune on, to compare answers of, or to ask."""

import argparse
import difflib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from jaxrl_llm.config.layers import parse_overrides
from jaxrl_llm.config.settle import kinds, members
from jaxrl_llm.config.validate import build
from jaxrl_llm.errors import UserError
from jaxrl_llm.tasks import TaskConfig, build_task
from jaxrl_llm.tasks.arithmetic import ArithmeticConfig, pair_rows
from jaxrl_llm.tasks.task import Example, Task

WITHOUT_END = 10_000  # rows of a task that could go on for ever


def task_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows that the arguments of `data task` ask for.

    Raises:
        UserError: there is no such task, key or value; or the task has no such rows, or not so many.
    """
    config = _config(args)
    task = build_task(config)
    n, seed, split = _number(args, task), args.seed, args.split
    if args.rows == "pairs":
        if not isinstance(config, ArithmeticConfig):
            raise UserError(f"{args.kind} has one answer a problem, so there are no pairs of it\n  mend: --rows sft")
        if config.varied:
            raise UserError("varied=true is of answers, and those of pairs tell the same story\n  mend: --rows sft")
        return pair_rows(n, seed, split, config.difficulty, config.largest, config.forgets)
    row = _sft_row if args.rows == "sft" else _problem_row
    return map(row, task.examples(split, n, seed))


def _config(args: argparse.Namespace) -> Any:
    known = kinds(members(TaskConfig))
    if args.kind not in known:
        near = difflib.get_close_matches(args.kind, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"there is: {', '.join(known)}"
        raise UserError(f"unknown task {args.kind!r}\n  mend: {mend}")
    return build(known[args.kind], [parse_overrides(args.overrides)], {})[0]


def _number(args: argparse.Namespace, task: Task) -> int:
    """How many rows: no problem comes twice where a task has an end."""
    size = task.size(args.split)
    if args.examples is None:
        return WITHOUT_END if size is None else size
    if size is not None and args.examples > size:
        raise UserError(f"--examples {args.examples}: {task.name} has {size:,} problems of the split {args.split}")
    return args.examples


def _sft_row(example: Example) -> dict[str, Any]:
    return {"prompt": example.question, "completion": example.answer}


def _problem_row(example: Example) -> dict[str, Any]:
    return {"prompt": example.question, "answer": example.answer, "value": _number_of(example.value)}


def _number_of(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
