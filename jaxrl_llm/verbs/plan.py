"""`plan CONFIG`: how much memory a run needs, by role and per device, and whether it fits; nothing is allocated."""

import argparse
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import add_config

HELP = "how much memory a run needs on each device, by role and phase, and whether it fits: from shapes, in seconds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_config(parser)
    parser.add_argument("--chip", metavar="NAME", help="fit devices that are not here: H100, A100 80GB, v5e, v5p ...")
    parser.add_argument("--devices", metavar="N", type=int, help="so many of them (default 1, or all that are here)")
    parser.add_argument("--memory", metavar="SIZE", help="fit this much a device: 80GiB")
    parser.add_argument("--compile", action="store_true", help="also ask the compiler, for the devices that are here")
    parser.add_argument(
        "--topology", metavar="SLICE", help="compile for a TPU slice that is not here: v5e:16x16, v5p:4x4x8"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.epilog = "Neither weights nor data are read: of init_from and reward models the config is enough."


def run(args: argparse.Namespace) -> int:
    """Plan and print; returns 0, whether it fits or not."""
    from jaxrl_llm.config import load
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.plan import (
        Traces,
        compile_programs,
        find_mend,
        make_plan,
        make_roofline,
        make_target,
        topology_target,
    )
    from jaxrl_llm.plan.target import parse_bytes
    from jaxrl_llm.plan.topology import elsewhere
    from jaxrl_llm.plan.view import fits, show, to_json

    if args.topology and (args.chip or args.devices):
        raise UserError("--topology says which devices and how many\n  mend: leave out --chip and --devices")
    runtime.start()
    target = topology_target(args.topology) if args.topology else make_target(args.chip, args.memory, args.devices)
    if args.topology and args.memory:
        target = dataclasses.replace(target, limit=parse_bytes(args.memory))
    if args.compile and not target.compiles:
        raise UserError(
            "--compile compiles for the devices that are here\n"
            "  mend: leave out --chip and --devices, or name a TPU slice by --topology"
        )
    traces = Traces()
    plan = make_plan(load(args.config, args.overrides), target, traces)
    compiled = []
    if args.compile or args.topology:
        with elsewhere() if args.topology else contextlib.nullcontext():
            # On stdout: stderr is libtpu's meanwhile.
            compiled = list(compile_programs(plan, lambda name: print(f"compiling `{name}` ...", flush=True)))
    mend = None
    if target.limit is not None and not fits(plan, target.limit, compiled):
        more = {each.phase: 1.0 for each in compiled}
        for each in compiled:
            more[each.phase] = max(more[each.phase], each.peak / plan.phase(each.phase))
        mend = find_mend(plan, target, lambda extra: load(args.config, [*args.overrides, *extra]), traces, more)
    sent = next((sum(c.sent for c in each.talk) for each in compiled if each.phase == "update" and each.talk), None)
    roofline = make_roofline(plan, target.chip, sent) if target.chip else None
    if args.json:
        write_json(Path(args.json), to_json(plan, target, mend, compiled, roofline))
    show(args.config, plan, target, mend, compiled, roofline)
    return 0


def write_json(path: Path, json_: dict[str, Any]) -> None:
    """Raises UserError where it cannot be written."""
    try:
        path.write_text(json.dumps(json_, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}") from error
