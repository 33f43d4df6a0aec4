"""`train CONFIG [a.b=c ...]`: one stage, chosen by `algo.kind`, through the one loop."""

import argparse

from jaxrl_llm.verbs import add_config

HELP = "run one stage of training, chosen by algo.kind"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_config(parser)
    parser.epilog = "The same command continues a run that was stopped.  Ctrl-C saves and exits with 42."


def run(args: argparse.Namespace) -> int:
    """Train; returns 0."""
    from jaxrl_llm.stage import train

    train(args.config, args.overrides)
    return 0
