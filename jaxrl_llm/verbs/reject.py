"""`reject CONFIG`: rejection sampling: draw answers, rate them, choose, write a data set."""

import argparse

HELP = """Draw several answers to each prompt, rate them by reward models or a grader, choose, and write what was
chosen: rows to fine-tune on, pairs, and a report.  The same command continues a run that was stopped."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a name such as reject/arithmetic")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", default=[], help="overrides of the config")
    parser.add_argument("--candidates", metavar="FILE", help="rate and choose among answers made elsewhere too")
    parser.epilog = "Changing rewards, keep, select or pairs chooses anew from the answers that were drawn already."


def run(args: argparse.Namespace) -> int:
    """Do it; returns 0."""
    from jaxrl_llm.config.yaml_source import to_yaml
    from jaxrl_llm.reject.run import reject

    more = [] if args.candidates is None else [f"candidates={to_yaml(args.candidates)}"]
    reject(args.config, [*args.overrides, *more])
    return 0
