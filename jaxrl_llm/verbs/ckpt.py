"""`ckpt ls / verify`: look after the checkpoints of a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError
from jaxrl_llm.verbs import print_table

if TYPE_CHECKING:
    from jaxrl_llm.config import Config
    from jaxrl_llm.training.checkpoint import Checkpoints
    from jaxrl_llm.types import TrainState

HELP = "Look after the checkpoints of a run: which there are, and whether each can be read whole."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="steps, sizes, losses, and which of them stay")
    ls.add_argument("run", metavar="RUN", help="a run directory")
    verify = actions.add_parser("verify", help="read every array and see that it is finite; exit code 2 if not")
    verify.add_argument("run", metavar="RUN", help="a run directory, or RUN/checkpoints/STEP")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    folder = Path(args.run)
    of_step = folder.parent.name == "checkpoints" and folder.name.isdecimal()
    if of_step and args.action == "ls":
        raise UserError(f"{folder}: is one checkpoint\n  mend: name its run, {folder.parent.parent}")

    from jaxrl_llm.parallel import runtime

    runtime.start()
    if of_step:
        return _verify(folder.parent.parent, int(folder.name))
    return {"ls": _ls, "verify": _verify}[args.action](folder)


def _open(workdir: Path) -> "tuple[Config, Checkpoints, list[int]]":
    """A run's config and its checkpoints, of which there is at least one."""
    from jaxrl_llm.config import load
    from jaxrl_llm.training.checkpoint import Checkpoints
    from jaxrl_llm.workdir import CONFIG

    if not (workdir / CONFIG).is_file():
        raise UserError(f"{workdir}: there is no run ({CONFIG} is not there)\n  mend: name a run directory")
    config, checkpoints = load(workdir / CONFIG), Checkpoints(workdir, None)
    if not checkpoints.steps():
        raise UserError(f"{workdir}: no whole checkpoint is there yet")
    return config, checkpoints, checkpoints.steps()


def _ls(workdir: Path) -> int:
    from jaxrl_llm.training.writers import METRICS, read_rows

    config, checkpoints, steps = _open(workdir)
    rows = read_rows(workdir / METRICS) if (workdir / METRICS).is_file() else []
    splits = list(dict.fromkeys(row["split"] for row in rows if "loss" in row))
    keep = config.checkpoint.keep_every
    table = []
    for step in steps:
        losses = (last_loss([row for row in rows if row["split"] == split], step) for split in splits)
        says = ["newest"] * (step == steps[-1]) + ["kept"] * bool(keep and step % keep == 0)
        table.append((f"{step:,}", size(checkpoints.path / str(step)), *losses, ", ".join(says)))
    print_table(table, ("step", "size", *(f"loss, {split}" for split in splits), ""))
    unfinished = sorted(
        each.name for each in checkpoints.path.iterdir() if each.is_dir() and each.name not in map(str, steps)
    )
    if unfinished:
        print(f"not finished, and removed when the run goes on: {', '.join(unfinished)}")
    return 0


def last_loss(rows: "list[dict[str, Any]]", step: int) -> str:
    """The loss that was logged last up to a step, and where, if that was before it."""
    found = [row for row in rows if row["step"] <= step and row.get("loss") is not None]
    if not found:
        return "-"
    row = max(found, key=lambda row: row["step"])
    return f"{row['loss']:.4f}" + (f" at {row['step']:,}" if row["step"] != step else "")


def size(folder: Path) -> str:
    """Of the files below a folder.

    >>> size(Path("checkpoints/20"))
    '2.8 MiB'
    """
    n = float(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _verify(workdir: Path, only: int | None = None) -> int:
    import dataclasses

    from jaxrl_llm.assemble import assemble
    from jaxrl_llm.models.lora import LoraConfig
    from jaxrl_llm.parallel.mesh import MeshConfig
    from jaxrl_llm.saved import Card, find_base

    config, checkpoints, steps = _open(workdir)
    if only is not None and only not in steps:
        raise UserError(f"{workdir}: there is no checkpoint of step {only}; there is: {', '.join(map(str, steps))}")
    # Arrays are read as they are, so a machine of any size may ask.
    template = assemble(dataclasses.replace(config, mesh=MeshConfig())).template
    damaged: dict[int, str] = {}
    for step in steps if only is None else [only]:
        try:
            print(f"step {step:,}: {_read(workdir, checkpoints, step, template)}", flush=True)
        except UserError as error:
            damaged[step] = str(error)
            print(f"step {step:,}: DAMAGED", flush=True)
    if damaged:
        whole = [step for step in steps if step not in damaged]
        raise UserError("\n".join([*damaged.values(), mend(checkpoints.path, damaged, whole if only is None else [])]))
    if isinstance(config.trainable, LoraConfig):  # whole as they are, adapters are of no use without their base
        find_base(Card.from_json(checkpoints.run_json(steps[-1])), workdir)
    return 0


def _read(workdir: Path, checkpoints: "Checkpoints", step: int, template: "TrainState") -> str:
    """Read all of a checkpoint; in words what was read.  Raises UserError where that cannot be, or is not finite."""
    import numpy as np

    from jaxrl_llm.saved import Card

    Card.from_json(checkpoints.run_json(step))
    n_arrays = n_bytes = 0
    for name, array in checkpoints.read_all(step, template):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            where = checkpoints.path / str(step) / name.partition(".")[0]
            raise UserError(f"{where}: {name} has {np.sum(~np.isfinite(array)):,} numbers that are not finite")
        n_arrays, n_bytes = n_arrays + 1, n_bytes + array.nbytes
    return f"whole, {n_arrays:,} arrays, {n_bytes:,} bytes, all finite"


def mend(folder: Path, damaged: "dict[int, str]", whole: list[int]) -> str:
    """What to do about damaged checkpoints."""
    remove = f"remove {', '.join(str(folder / str(step)) for step in damaged)}"
    after = f"the run then goes on from step {whole[-1]:,}" if whole else "or copy it anew from where it came from"
    return f"  mend: {remove}; {after}"
