"""`run PIPELINE`: several stages, each a process of its own, and one report."""

import argparse
import os
from typing import TYPE_CHECKING

from jaxrl_llm.verbs import print_table

if TYPE_CHECKING:
    from jaxrl_llm.pipeline import Pipeline

HELP = """Run the stages of a pipeline, each after those that it reads, in a directory of its own below the workdir.
What is done is skipped, so after an interruption the same command continues.
Every config and path is checked before anything runs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("pipeline", metavar="PIPELINE", help="a YAML file, or a name such as pipelines/quickstart")
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="workdir=DIR, or STAGE.a.b=value for a stage's config"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan and the memory it takes, run nothing"
    )
    parser.add_argument(
        "--redo", metavar="STAGE", action="append", default=[], help="run this stage anew, and all that read it"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show what the stages write, in place of one view of all"
    )


def run(args: argparse.Namespace) -> int:
    """Plan, then run; at the end say what to look at."""
    from jaxrl_llm.pipeline import execute, plan, refuse_changed

    refuse_several()
    pipeline = plan(args.pipeline, args.overrides, args.redo)
    if args.dry_run:
        show(pipeline)
    refuse_changed(pipeline.stages, pipeline.redo)
    if args.dry_run:
        return 0
    code = execute(pipeline, args.verbose)
    if code == 0 and pipeline.next:
        print("\n  ".join(["try next:", *pipeline.next]))
    return code


def refuse_several() -> None:
    """A UserError where this is one of several processes, which would all be in charge."""
    from jaxrl_llm.errors import UserError
    from jaxrl_llm.parallel.clusters import find_cluster

    cluster = find_cluster(os.environ)
    if cluster is not None and cluster.count > 1:
        raise UserError(
            f"a pipeline is run by one process, and this is {cluster}\n"
            "  mend: the stages' commands, which --dry-run lists on one machine, one after another on all hosts"
        )


def show(pipeline: "Pipeline") -> None:
    """The stages in the order in which they run, and what those that train will need."""
    from jaxrl_llm.pipeline.memory import memory
    from jaxrl_llm.pipeline.stage import changed

    states = {
        stage.name: "to run"
        if stage.name in pipeline.redo or not stage.done()
        else "changed"
        if changed(stage)
        else "done"
        for stage in pipeline.stages
    }
    print_table((stage.name, states[stage.name], stage.command) for stage in pipeline.stages)
    needs = list(memory(pipeline, [name for name, state in states.items() if state != "done"]))
    if needs:
        print_table(needs, ("memory", "peak", ""))
