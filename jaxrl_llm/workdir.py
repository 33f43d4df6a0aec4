"""Directories with a model in them: who may write one, and how a run, a checkpoint or a Hugging Face one is opened."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from jaxrl_llm.assemble import weights_template
from jaxrl_llm.config import Config, Resolved, flatten, load, of_huggingface, save
from jaxrl_llm.data.tokenizers import Tokenizer, load_tokenizer, tokenizer_from_json
from jaxrl_llm.errors import StorageFailed, UserError
from jaxrl_llm.models import build_model
from jaxrl_llm.models.hf import describe, is_huggingface, read_weights
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.writers import METRICS
from jaxrl_llm.types import Head, Json, Model, Params, ScoreScale

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
        if has_checkpoint(workdir) or (workdir / METRICS).is_file():
            refuse_other_run(workdir, load(saved), resolved.config)
        elif saved.is_file():  # a run that never began: its config may be mended
            pass
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


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run there has come as far as a checkpoint."""
    folder = workdir / "checkpoints"
    return (
        (workdir / CONFIG).is_file() and folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir())
    )


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


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well, and is gone when it does not.

    Raises:
        UserError: `out` is there and not empty, or cannot be made.
        StorageFailed: the disk gave up on the way.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is there already, and shall not be overwritten\n  mend: name a new or empty folder")
    draft = Path(os.path.abspath(out)).with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}\n  mend: name another folder") from error
    try:
        yield draft
        os.replace(draft, out)
    except OSError as error:
        raise StorageFailed(f"{out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True)
class Card:
    """What goes with weights besides their config: in the JSON of each checkpoint, and out again on export."""

    tokenizer: Tokenizer
    heads: Mapping[str, Head]  # of each role whose weights are there
    score: ScoreScale | None = None  # of a reward model

    def to_json(self) -> Json:
        """For `from_json`."""
        score = None if self.score is None else dataclasses.asdict(self.score)
        return {"tokenizer": self.tokenizer.to_json(), "heads": dict(self.heads), "score": score}

    @staticmethod
    def from_json(json: Json) -> "Card":
        """The card that `to_json` described."""
        try:
            score = None if json["score"] is None else ScoreScale(**json["score"])
            return Card(tokenizer_from_json(json["tokenizer"]), json["heads"], score)
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint was saved by another version of jaxrl_llm: {error} is missing") from error


@dataclass(frozen=True)
class SavedModel:
    """A model on disk that was found and not yet read."""

    config: Config
    card: Card
    step: int
    weights: Callable[[Mapping[str, Model], Mesh], Params]  # of these roles, float32, straight into their sharding
    optimizer: Callable[[Params], Params] | None  # its state, into the shapes and shardings of a template


def find_model(path: str | Path) -> SavedModel:
    """The newest checkpoint of a run directory, the one that RUN/checkpoints/STEP names, or a Hugging Face directory.

    Raises:
        UserError: there is none, or it is one that cannot be opened.
    """
    folder = Path(path)
    wanted = int(folder.name) if folder.name.isdecimal() and folder.parent.name == "checkpoints" else None
    workdir = folder.parent.parent if wanted is not None else folder
    if folder.is_dir() and (workdir / CONFIG).is_file():
        return find_run(workdir, wanted)
    if is_huggingface(folder):
        return find_huggingface(folder)
    raise UserError(
        f"{path}: there is no run ({CONFIG}) and no Hugging Face model (config.json)\n"
        "  mend: name a run, RUN/checkpoints/STEP, or a Hugging Face directory"
    )


def find_run(workdir: Path, wanted: int | None) -> SavedModel:
    """A checkpoint of a run: the wanted step, or the newest."""
    checkpoints = Checkpoints(workdir, None)
    step = checkpoints.latest() if wanted is None else wanted
    if step is None or step not in checkpoints.steps():
        raise UserError(f"{workdir}: no whole checkpoint is there yet; steps that are: {checkpoints.steps() or 'none'}")

    def weights(models: Mapping[str, Model], mesh: Mesh) -> Params:
        template = {role: weights_template(model.specs, mesh) for role, model in models.items()}
        return checkpoints.restore_item(step, "params", template)

    def optimizer(template: Params) -> Params:
        return checkpoints.restore_item(step, "opt_state", template)

    return SavedModel(load(workdir / CONFIG), Card.from_json(checkpoints.run_json(step)), step, weights, optimizer)


def find_huggingface(folder: Path) -> SavedModel:
    """The model of a Hugging Face directory, in the role `policy`, or `reward` where its head gives a score."""
    found, config, tokenizer = describe(folder), of_huggingface(folder, str(folder)).config, load_tokenizer(folder)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} ids and the model only {config.model.vocab_size:,}\n"
            "  mend: the tokenizer that belongs to this model"
        )
    heads: Mapping[str, Head] = {"policy" if found.head == "lm" else "reward": found.head}

    def weights(models: Mapping[str, Model], mesh: Mesh) -> Params:
        return {role: read_weights(folder, model.specs, mesh) for role, model in models.items()}

    return SavedModel(config, Card(tokenizer, heads, found.score), 0, weights, optimizer=None)


@dataclass(frozen=True)
class Opened:
    """A trained model and what belongs to it: what `jaxrl_llm.load(path)` returns."""

    model: Model
    params: Params  # of the role that was opened, float32, sharded over the mesh
    head: Head  # lm: model.logits; scalar: model.score
    card: Card
    config: Config
    step: int
    mesh: Mesh

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.card.tokenizer


def open_model(path: str | Path, mesh: MeshConfig | None = None, head: Head | None = "lm") -> Opened:
    """Open a trained model for use: `model.logits(params, tokens_BT)`, `tokenizer.encode(text)`.

    Raises:
        UserError: there is none, or none with this head; None takes either.
    """
    saved = find_model(path)
    heads = saved.card.heads
    role = next((role for role in heads if head in (None, heads[role])), None)
    if role is None:
        kinds = {"lm": "language model", "scalar": "reward model"}
        raise UserError(f"{path}: holds a {' and a '.join(kinds[h] for h in heads.values())}, no {kinds[head or 'lm']}")
    compute = dataclasses.replace(saved.config.compute, attention="auto", remat="none")
    device_mesh = make_mesh(MeshConfig() if mesh is None else mesh)
    model = build_model(saved.config.model, compute, device_mesh, heads[role])
    params = saved.weights({role: model}, device_mesh)[role]
    return Opened(model, params, heads[role], saved.card, saved.config, saved.step, device_mesh)
