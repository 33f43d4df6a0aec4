"""`bench WHAT CONFIG`: how fast the very objects of training and sampling run here, as a table."""

import argparse
import time

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import add_config

STEPS = {
    "train": "any config without rollouts",
    "sft": "fine-tuning",
    "reward": "a reward model, two answers a prompt",
    "dpo": "DPO",
}
ROUNDS = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO"}
HELP = "measure a training step, a round of rollouts, the loop around a step, the sampler, or rejection sampling"


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
    for name, of in ROUNDS.items():
        one = what.add_parser(name, help=f"rounds of {of}: seconds to sample, score, prepare and update")
        add_config(one)
        one.add_argument("--rounds", type=int, default=5, help="rounds that are timed (default 5)")
        one.add_argument("--warmup", type=int, default=2, help="rounds before those that are timed (default 2)")
        one.add_argument("--prompt-length", type=int, default=256, help="tokens of a prompt (default 256)")
        one.add_argument("--answer-length", type=int, default=256, help="tokens of an answer (default 256)")
    loop = what.add_parser("loop", help="the host's own time around a step that does nothing")
    for one in (*steps, loop):
        add_config(one)
        one.add_argument("--steps", type=int, default=10, help="steps that are timed (default 10)")
    add_config(
        what.add_parser("reject", help="the sampler alone, against sampling, scoring and selecting as `reject` does")
    )
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
    numbers = ("steps", "rounds", "warmup", "prompts", "prompt_length", "answer_length", "new_tokens", "n", "slots")
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
    if args.what == "reject":
        from jaxrl_llm.reject.config import resolve_reject

        print_table(
            f"bench reject: {args.config}", benchmarks.bench_reject(resolve_reject(args.config, args.overrides).config)
        )
        return 0
    config = resolve(args.config, args.overrides).config
    refuse_other_kind(args.what, args.config, config.algo.kind)
    if args.what in STEPS:
        rows = benchmarks.bench_train(config, args.steps, args.warmup, began, args.prompt_length, args.answer_length)
    elif args.what in ROUNDS:
        rows = benchmarks.bench_rollouts(
            config, args.rounds, args.warmup, args.prompt_length, args.answer_length, began
        )
    elif args.what == "loop":
        rows = benchmarks.bench_loop(config, args.steps)
    else:
        rows = benchmarks.bench_sample(
            config, args.prompts, args.prompt_length, args.new_tokens, args.n, args.slots, spread
        )
    print_table(f"bench {args.what}: {args.config}", rows)
    return 0


def refuse_other_kind(what: str, config: str, kind: str) -> None:
    """A UserError where this is not what can be measured of a config of this `algo.kind`."""
    if what == "sample" or what == kind or (what in ("train", "loop") and kind not in ROUNDS):
        return
    mend = f"bench {kind}" if kind in STEPS or kind in ROUNDS else "bench train"
    raise UserError(f"{config} has algo.kind={kind}, which `bench {what}` does not measure\n  mend: {mend}")


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
