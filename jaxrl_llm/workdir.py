"""The run directory: who may use it, what is in it, and how a run, a checkpoint or `init_from` is opened again."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from jaxrl_llm.assemble import weights_template
from jaxrl_llm.config import Config, Resolved, flatten, load, save
from jaxrl_llm.data.tokenizers import Tokenizer, tokenizer_from_json
from jaxrl_llm.errors import UserError
from jaxrl_llm.models import build_model
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.types import Model, Params

CONFIG = "config.yaml"

# Keys that may change when a run is continued: how, how long and how closely watched, not what is learned.
FREE = ("workdir", "mesh", "compute", "eval", "checkpoint", "logging", "training.steps", "training.log_every")
FREE_DATA = ("data.cache_dir", "data.workers", "data.prefetch")


def claim(workdir: Path, resolved: Resolved) -> None:
    """Make a run directory ours and write its config.yaml, or find the run there that is to be continued.

    Raises:
        UserError: it cannot be written, is something else's, or holds the run of another config.
    """
    saved = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if saved.is_file():
            refuse_other_run(workdir, load(saved), resolved.config)
        elif any(workdir.iterdir()):
            raise UserError(
                f"{workdir} holds files but no run ({CONFIG} is not there), and nothing there shall be overwritten\n"
                "  mend: choose another workdir"
            )
        save(resolved, saved)
    except OSError as error:
        raise UserError(
            f"the run directory {workdir} cannot be written: {error.strerror}\n  mend: workdir=FOLDER"
        ) from error


def refuse_other_run(workdir: Path, before: Config, now: Config) -> None:
    """A UserError naming the keys in which a continued run would not be the one it was."""
    old, new = flatten(before), flatten(now)
    keys = [
        key
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
        and not any(key == free or key.startswith(free + ".") for free in FREE + FREE_DATA)
    ]
    if keys:
        lines = [f"  {key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in keys[:12]]
        more = [f"  and {len(keys) - 12} more"] if len(keys) > 12 else []
        raise UserError(
            "\n".join([f"{workdir} holds a run of another config:", *lines, *more])
            + "\n  mend: workdir=ANOTHER starts a new run; the old config continues this one"
        )


@dataclass(frozen=True)
class Opened:
    """A trained model and what belongs to it: what `jaxrl_llm.load(path)` returns."""

    model: Model
    params: Params  # of the policy, float32, sharded over the mesh
    tokenizer: Tokenizer
    config: Config
    step: int
    mesh: Mesh


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint that is there: where, which step, whose."""

    checkpoints: Checkpoints
    step: int
    config: Config
    tokenizer: Tokenizer


def find_run(path: str | Path) -> SavedRun:
    """The newest checkpoint of a run directory, or the one that RUN/checkpoints/STEP names.

    Raises:
        UserError: there is none.
    """
    folder = Path(path)
    wanted = int(folder.name) if folder.name.isdecimal() and folder.parent.name == "checkpoints" else None
    workdir = folder.parent.parent if wanted is not None else folder
    if not folder.is_dir() or not (workdir / CONFIG).is_file():
        raise UserError(f"{path}: there is no run\n  mend: name a run, or RUN/checkpoints/STEP")
    checkpoints = Checkpoints(workdir, None)
    step = checkpoints.latest() if wanted is None else wanted
    if step is None or step not in checkpoints.steps():
        raise UserError(f"{path}: no whole checkpoint is there yet; steps that are: {checkpoints.steps() or 'none'}")
    config, record = load(workdir / CONFIG), checkpoints.run_json(step)
    return SavedRun(checkpoints, step, config, tokenizer_from_json(record["tokenizer"]))


def open_model(path: str | Path, mesh: MeshConfig | None = None) -> Opened:
    """Open a trained model for use: `model.logits(params, tokens_BT)`, `tokenizer.encode(text)`."""
    run = find_run(path)
    compute = dataclasses.replace(run.config.compute, attention="auto", remat="none")
    device_mesh = make_mesh(MeshConfig() if mesh is None else mesh)
    model = build_model(run.config.model, compute, device_mesh)
    params = restore_weights(run, {"policy": model}, device_mesh)["policy"]
    return Opened(model, params, run.tokenizer, run.config, run.step, device_mesh)


def restore_weights(run: SavedRun, models: Mapping[str, Model], mesh: Mesh) -> Params:
    """The checkpoint's weights of these roles, straight into their sharding on this mesh."""
    template = {role: weights_template(model.specs, mesh) for role, model in models.items()}
    return run.checkpoints.restore_item(run.step, "params", template)
