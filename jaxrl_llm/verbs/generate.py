"""`generate MODEL`: sample from a trained model: text that it goes on with, or answers in conversations."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.data.prompts import Prompt
    from jaxrl_llm.rollout.rewards import Scorer
    from jaxrl_llm.rollout.sampling import SamplingConfig
    from jaxrl_llm.saved import Opened

HELP = "sample from a trained model"
SLOTS = 64  # completions written at once


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.usage = "jaxrl-llm generate MODEL [OPTION ...]"
    parser.add_argument(
        "model", metavar="MODEL", help="a run directory, RUN/checkpoints/STEP, or a directory of Hugging Face or PEFT"
    )
    parser.add_argument("--prompt", action="append", help='text to continue; may be given again; default: ""')
    parser.add_argument(
        "--prompts", metavar="FILE", help="a prompt a line; or rows (.jsonl, ...) {prompt}, {messages}, {instruction}"
    )
    parser.add_argument(
        "--n", type=int, default=1, help="completions of each prompt (default 1); of --best-of the best"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest completion (default 128)")
    parser.add_argument("--stop", action="append", default=[], help="text that ends a completion; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default 0)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write JSONL rows {prompt, completion, ended, tokens, logp, model}, and {score, of}",
    )
    chat = parser.add_argument_group("conversations (prompts that are messages)")
    chat.add_argument("--chat", action="store_true", help="a prompt that is text is what a user says")
    chat.add_argument("--system", metavar="TEXT", help="the system message of those that have none")
    chat.add_argument("--template", metavar="NAME", help="a chat template or a file; default: the model's")
    add_sampling(parser)
    add_best_of(parser)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The arguments that make a SamplingConfig."""
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default 1.0)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that hold this probability only")
    parser.add_argument("--min-p", type=float, help="draw from tokens at least this share as likely as the likeliest")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: seen tokens are less likely")


def add_best_of(parser: argparse.ArgumentParser) -> None:
    """The arguments of the best of N."""
    best = parser.add_argument_group("the best of several")
    best.add_argument("--best-of", type=int, metavar="N", help="write N and keep what the reward model scores highest")
    best.add_argument("--reward", metavar="MODEL", help="a run of algo.kind=reward, whatever its tokenizer")


def run(args: argparse.Namespace) -> int:
    """Sample; returns 0."""
    check(args)
    prompts = find_prompts(args)
    out = Path(args.out) if args.out else None
    if out is not None and out.exists():
        raise UserError(f"--out {out}: is there already, and shall not be overwritten")

    from jaxrl_llm.alike import same_arguments, same_models, same_texts
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.parallel.distributed import is_main
    from jaxrl_llm.saved import open_model

    runtime.start()
    same_arguments(vars(args))
    same_texts({"prompts": prompts})
    same_models([args.model, args.reward])
    opened = open_model(args.model)
    if args.best_of is None:
        rows = sample(opened, prompts, args, args.n)
    else:
        judge = find_judge(opened, prompts, args)  # before anything is sampled
        rows = best_rows(judge, prompts, sample(opened, prompts, args, args.best_of), args)
    if not is_main():
        return 0
    if out is None:
        for row in rows:
            print(as_text(row) + ("" if len(rows) == 1 else "\n---" + as_score(row)))
        return 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    print(f"{len(rows)} completions -> {out}")
    return 0


def check(args: argparse.Namespace) -> None:
    """A UserError for numbers that mean nothing."""
    wrong = {
        "--n must be at least 1": args.n < 1,
        "--max-new-tokens must be at least 1": args.max_new_tokens < 1,
        "--seed must lie between 0 and 2**32 - 1": not 0 <= args.seed < 2**32,
        "--stop must not be empty": "" in args.stop,
        "--prompt and --prompts exclude each other": bool(args.prompt and args.prompts),
        f"--n {args.n} is more than the {args.best_of} of --best-of": args.best_of is not None
        and 1 < args.best_of < args.n,
        **wrong_sampling(args),
        **wrong_best_of(args),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)


def wrong_sampling(args: argparse.Namespace) -> dict[str, bool]:
    """Message -> whether it holds, for the arguments of `add_sampling`."""
    return {
        "--temperature must be 0 or more": not 0 <= args.temperature < math.inf,
        "--top-k must be at least 1": args.top_k is not None and args.top_k < 1,
        "--top-p must lie in (0, 1]": args.top_p is not None and not 0 < args.top_p <= 1,
        "--min-p must lie in (0, 1]": args.min_p is not None and not 0 < args.min_p <= 1,
        "--repetition-penalty must be above 0": not 0 < args.repetition_penalty < math.inf,
    }


def wrong_best_of(args: argparse.Namespace) -> dict[str, bool]:
    """The same for the arguments of `add_best_of`."""
    several = args.best_of is not None
    return {
        "--best-of must be at least 2: the best of one is no choice": several and args.best_of < 2,
        "--best-of needs a reward model, which says what is best\n  mend: --reward MODEL": several and not args.reward,
        "--reward is for the best of several\n  mend: --best-of 8, say": bool(args.reward) and not several,
        "--best-of needs samples that differ, and at --temperature 0 all are alike": several and args.temperature == 0,
    }


def find_prompts(args: argparse.Namespace) -> "list[Prompt]":
    """The prompts of the command line or of the file: all text, or all conversations."""
    from jaxrl_llm.data.prompts import as_conversations, conversations_alone, read_prompts

    prompts = read_prompts(Path(args.prompts)) if args.prompts else [*(args.prompt or [""])]
    if args.chat or conversations_alone(prompts):
        return [*as_conversations(prompts, args.system)]
    for name in ("system", "template"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for conversations, and the prompts are text to go on with\n  mend: --chat")
    return prompts


def sampling_config(args: argparse.Namespace) -> "SamplingConfig":
    """The distribution that the arguments describe."""
    from jaxrl_llm.rollout.sampling import SamplingConfig

    keys = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return SamplingConfig(**{key: getattr(args, key) for key in keys})


def sample(opened: "Opened", prompts: "Sequence[Prompt]", args: argparse.Namespace, n: int) -> list[dict]:
    """Rows {prompt, completion, ended, tokens, logp, model}, the n completions of a prompt together."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from jaxrl_llm.data.chat import find_template
    from jaxrl_llm.data.prompts import ask, written
    from jaxrl_llm.parallel.distributed import is_main
    from jaxrl_llm.rollout.sampler import Sampler

    tokenizer = opened.tokenizer
    asked = ask(prompts, tokenizer, find_template(tokenizer, args.template))
    total = len(prompts) * n
    sampler = Sampler(
        opened.model,
        opened.mesh,
        sampling_config(args),
        stop_ids=sorted(asked.stop_ids),
        context=opened.config.model.context,
        slots=min(SLOTS, total),
        stop_strings=args.stop,
        to_text=tokenizer.decode,
    )
    columns = (BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f} completions"), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(
        *columns, console=screen, transient=True, disable=total == 1 or not (screen.is_terminal and is_main())
    ) as bar:
        task = bar.add_task("", total=total)
        found, _ = sampler(
            opened.params,
            asked.ids,
            n=n,
            max_new_tokens=args.max_new_tokens,
            seed=args.seed,
            progress=lambda stats: bar.update(task, completed=stats.completions),
        )
    return [
        {
            "prompt": prompt,
            "completion": written(prompt, completion.tokens, tokenizer, asked.stop_ids),
            "ended": completion.ended,
            "tokens": completion.tokens,
            "logp": [round(float(x), 6) for x in completion.logp],
            "model": args.model,
        }
        for prompt, completions in zip(prompts, found, strict=True)
        for completion in completions
    ]


def find_judge(opened: "Opened", prompts: "Sequence[Prompt]", args: argparse.Namespace) -> "Scorer":
    """The reward model, tried on the first prompt's form.  What it has to cut, it says on stderr."""
    from jaxrl_llm.best_of_n.judge import open_judge
    from jaxrl_llm.parallel.distributed import is_main
    from jaxrl_llm.rollout.prompts import Prompt

    return open_judge(
        args.reward,
        opened.mesh,
        opened.tokenizer,
        Prompt((), prompts[0], "prompt 1"),
        batch_size=SLOTS,
        warn=lambda text: print(f"warning: {text}", file=sys.stderr) if is_main() else None,
    )


def best_rows(
    judge: "Scorer", prompts: "Sequence[Prompt]", rows: Sequence[dict], args: argparse.Namespace
) -> list[dict]:
    """Of each prompt's N rows the n best, the highest first, with `score` and `of`; of equal ones the first."""
    from jaxrl_llm.best_of_n.judge import score
    from jaxrl_llm.rollout import prompts as rollout

    n = args.best_of
    groups = [rows[at : at + n] for at in range(0, len(rows), n)]
    asked = [rollout.Prompt((), prompt, f"prompt {i}") for i, prompt in enumerate(prompts, start=1)]
    scores_BN = score(judge, asked, [[row["completion"] for row in group] for group in groups], "scoring")
    return [
        group[i] | {"score": float(score_N[i]), "of": n}
        for group, score_N in zip(groups, scores_BN, strict=True)
        for i in (-score_N).argsort(kind="stable")[: args.n]
    ]


def as_score(row: dict) -> str:
    """What a reward model gave it, if one was asked."""
    return f" {row['score']:.3f}, best of {row['of']}" if "score" in row else ""


def as_text(row: dict) -> str:
    """A row for the terminal."""
    if isinstance(row["prompt"], str):
        return row["prompt"] + row["completion"]
    answer = {"role": "assistant", "content": row["completion"]}
    return "\n".join(f"{message['role']}: {message['content']}" for message in (*row["prompt"], answer))
