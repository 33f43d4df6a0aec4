"""`train CONFIG [a.b=c ...]`: one stage, chosen by `algo.kind`, through the one loop."""

import argparse

HELP = "run one stage of training, chosen by algo.kind"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "config", help="a YAML file, or a name of the packaged configs such as pretrain/shakespeare_char"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="config keys to replace")
    parser.epilog = "The same command continues a run that was stopped.  Ctrl-C saves and exits with 42."


def run(args: argparse.Namespace) -> int:
    """Train; returns 0."""
    from jaxrl_llm.stage import train

    train(args.config, args.overrides)
    return 0
