"""`bench WHAT CONFIG`: how fast the very objects of training and sampling run here, as a table."""

import argparse
import time

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import add_config

STEPS = {
    "train": "any config",
    "sft": "fine-tuning",
    "reward": "a reward model, two answers a prompt",
    "dpo": "DPO",
}
HELP = "measure a training step, the loop around it, or the sampler"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    steps = []
    for name, of in STEPS.items():
        one = what.add_parser(name, help=f"the step of {of}: tokens/s, TFLOP/s, share of peak, memory, compile time")
        one.add_argument("--warmup", type=int, default=2, help="steps before those that are timed (default 2)")
        one.add_argument("--prompt-length", type=int, default=256, help="tokens, but of text (default 256)")
        one.add_argument("--answer-length", type=int, default=256, help="tokens, but of text (default 256)")
        steps.append(one)
    loop = what.add_parser("loop", help="the host's own time around a step that does nothing")
    for one in (*steps, loop):
        add_config(one)
        one.add_argument("--steps", type=int, default=10, help="steps that are timed (default 10)")
    sample = what.add_parser("sample", help="the sampler: tokens/s, slot occupancy")
    add_config(sample)
    sample.add_argument("--prompts", type=int, default=64, help="default 64")
    sample.add_argument("--prompt-length", type=int, default=256, help="tokens (default 256)")
    sample.add_argument("--new-tokens", type=int, default=256, help="tokens of a completion (default 256)")
    sample.add_argument("--n", type=int, default=1, help="completions of a prompt (default 1)")
    sample.add_argument("--slots", type=int, default=64, help="completions written at once (default 64)")
    sample.add_argument("--spread", metavar="A:B", help="lengths drawn from A to B; refilling against waiting")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns 0."""
    began = time.perf_counter()
    numbers = ("steps", "warmup", "prompts", "prompt_length", "answer_length", "new_tokens", "n", "slots")
    for name in numbers:
        if getattr(args, name, 1) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if args.what == "loop" and args.steps < 2:
        raise UserError("--steps must be at least 2: what is timed lies between two steps")
    spread = parse_spread(args.spread) if getattr(args, "spread", None) else None

    from jaxrl_llm import benchmarks
    from jaxrl_llm.config import resolve
    from jaxrl_llm.parallel import runtime

    runtime.start()
    config = resolve(args.config, args.overrides).config
    if args.what in STEPS:
        if args.what not in ("train", config.algo.kind):
            raise UserError(
                f"{args.config} has algo.kind={config.algo.kind}\n  mend: bench {config.algo.kind}, or train"
            )
        rows = benchmarks.bench_train(config, args.steps, args.warmup, began, args.prompt_length, args.answer_length)
    elif args.what == "loop":
        rows = benchmarks.bench_loop(config, args.steps)
    else:
        rows = benchmarks.bench_sample(
            config, args.prompts, args.prompt_length, args.new_tokens, args.n, args.slots, spread
        )
    print_table(f"bench {args.what}: {args.config}", rows)
    return 0


def parse_spread(text: str) -> tuple[int, int]:
    """`16:512` -> (16, 512)."""
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise UserError(f"--spread {text}: expected two whole numbers, as in 16:512")
    return int(low), int(high)


def print_table(title: str, rows: dict[str, str]) -> None:
    """Two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for label, figure in rows.items():
        table.add_row(label, figure)
    Console().print(table)
