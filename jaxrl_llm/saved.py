"""Models on disk: how a run, a checkpoint, a Hugging Face or a PEFT directory is found, and opened."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from jaxrl_llm.assemble import HELPERS, averages, divide, keeps_fixed, weights_template
from jaxrl_llm.config import Config, load, of_huggingface
from jaxrl_llm.data.tokenizers import Tokenizer, load_tokenizer, tokenizer_from_json
from jaxrl_llm.errors import UserError
from jaxrl_llm.models import build_model
from jaxrl_llm.models.hf import (
    base_model,
    describe,
    describe_adapter,
    is_adapter,
    is_huggingface,
    read_adapter,
    read_weights,
)
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import Trainable, build_trainable
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.starting import starting_weights
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.types import Head, Json, Model, Params, ScoreScale
from jaxrl_llm.workdir import CONFIG


@dataclass(frozen=True)
class Base:
    """The model that a run began from, where it needs that further: under adapters, or as the reference."""

    path: str  # absolute, or empty: random weights, by the config's seed
    fingerprint: str


@dataclass(frozen=True)
class Card:
    """What goes with weights besides their config: in the JSON of each checkpoint, and out again on export."""

    tokenizer: Tokenizer
    heads: Mapping[str, Head]  # of each role whose weights are there
    score: ScoreScale | None = None  # of a reward model
    base: Base | None = None
    template: str | None = None  # Jinja text that the model was trained with; None: the tokenizer's own

    def to_json(self) -> Json:
        """For `from_json`."""
        score, base = (None if x is None else dataclasses.asdict(x) for x in (self.score, self.base))
        return {
            "tokenizer": self.tokenizer.to_json(),
            "template": self.template,
            "heads": dict(self.heads),
            "score": score,
            "base": base,
        }

    @staticmethod
    def from_json(json: Json) -> "Card":
        """The card that `to_json` described."""
        try:
            score = None if json["score"] is None else ScoreScale(**json["score"])
            tokenizer = tokenizer_from_json(json["tokenizer"])
            tokenizer.chat_template = json["template"] or tokenizer.chat_template
            base = None if json["base"] is None else Base(**json["base"])
            return Card(tokenizer, json["heads"], score, base, json["template"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint was saved by another version of jaxrl_llm: {error} is missing") from error


class Adapters(NamedTuple):
    """What a run with adapters trained of a role."""

    config: LoraConfig
    trained: Params
    specs: Params  # of `trained`


@dataclass(frozen=True)
class SavedModel:
    """A model on disk that was found and not yet read."""

    path: str
    config: Config
    card: Card
    step: int
    weights: Callable[[str, Mesh], Params]  # of a role of the card: whole, float32, straight into their sharding
    optimizer: Callable[[Params], Params] | None  # its state, into the shapes and shardings of a template
    files: Callable[[], list[Path]]  # that hold the weights
    adapters: Callable[[str, Mesh], Adapters] | None = None  # of a run that trained such: of a role, not yet added in

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the weights' files: another one for other weights."""
        digest = hashlib.sha256()
        for file in self.files():
            with file.open("rb") as stream:
                digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def find_model(path: str | Path) -> SavedModel:
    """The newest checkpoint of a run directory, or the one that RUN/checkpoints/STEP names; a Hugging Face directory;
    or one of PEFT's, whose adapter is added in.

    Raises:
        UserError: there is none, or it is one that cannot be opened.
    """
    folder = Path(path)
    wanted = int(folder.name) if folder.name.isdecimal() and folder.parent.name == "checkpoints" else None
    workdir = folder.parent.parent if wanted is not None else folder
    if folder.is_dir() and (workdir / CONFIG).is_file():
        return find_run(workdir, wanted)
    if is_adapter(folder):
        return find_peft(folder)
    if is_huggingface(folder):
        return find_huggingface(folder)
    raise UserError(
        f"{path}: there is no run ({CONFIG}), no Hugging Face model (config.json), no adapter (adapter_config.json)\n"
        "  mend: name a run, RUN/checkpoints/STEP, or a Hugging Face directory"
    )


def find_run(workdir: Path, wanted: int | None) -> SavedModel:
    """A checkpoint of a run: the wanted step, or the newest."""
    checkpoints = Checkpoints(workdir, None)
    step = checkpoints.latest() if wanted is None else wanted
    if step is None or step not in checkpoints.steps():
        raise UserError(f"{workdir}: no whole checkpoint is there yet; steps that are: {checkpoints.steps() or 'none'}")
    config, card = load(workdir / CONFIG), Card.from_json(checkpoints.run_json(step))
    folder = workdir / "checkpoints" / str(step)

    def divided(mesh: Mesh) -> dict[str, Trainable]:
        specs = {name: llama_specs(config.model_of(name), head) for name, head in card.heads.items()}
        return {name: divide(config, name, specs[name], mesh) for name in specs}

    def trained(role: str, mesh: Mesh) -> Params:
        averaged, template = averages(config), {n: weights_template(d.specs, mesh) for n, d in divided(mesh).items()}
        if role in averaged:
            return checkpoints.restore_item(step, "ema", {name: template[name] for name in averaged})[role]
        return checkpoints.restore_item(step, "params", template)[role]

    def weights(role: str, mesh: Mesh) -> Params:
        divisions, kept = divided(mesh), keeps_fixed(config)
        fixed: Params = {}
        if role in kept and divisions[role].fixed_specs:
            there = {name: divisions[name].fixed_specs for name in kept if divisions[name].fixed_specs}
            rest = {name: weights_template(tree, mesh) for name, tree in there.items()}
            fixed = checkpoints.restore_item(step, "fixed", rest)[role]
        elif isinstance(config.trainable, LoraConfig):
            fixed = divisions[role].fixed(starting_weights(config, mesh, find_base(card, workdir), [role])[role])
        return divisions[role].join(trained(role, mesh), fixed)

    def adapters(role: str, mesh: Mesh) -> Adapters:
        assert isinstance(config.trainable, LoraConfig)
        return Adapters(config.trainable, trained(role, mesh), divided(mesh)[role].specs)

    def optimizer(template: Params) -> Params:
        return checkpoints.restore_item(step, "opt_state", template)

    def files() -> list[Path]:
        return sorted(
            file for name in ("params", "ema", "fixed") for file in (folder / name).rglob("*") if file.is_file()
        )

    has_adapters = isinstance(config.trainable, LoraConfig)
    return SavedModel(str(folder), config, card, step, weights, optimizer, files, adapters if has_adapters else None)


def find_base(card: Card, workdir: Path) -> SavedModel | None:
    """The model that a run's adapters are for; None where its weights were random.

    Raises:
        UserError: it is not there any more, or is another one now.
    """
    if card.base is None or not card.base.path:
        return None
    try:
        found = find_model(card.base.path)
    except UserError as error:
        raise UserError(
            f"{workdir} holds adapters for {card.base.path}, which is not there any more:\n{error}"
        ) from None
    if found.fingerprint != card.base.fingerprint:
        raise UserError(
            f"{workdir} holds adapters for {card.base.path}, whose weights are others now\n"
            "  mend: put back the ones that the adapters were trained on"
        )
    return found


def find_huggingface(folder: Path) -> SavedModel:
    """The model of a Hugging Face directory, in the role `policy`, or `reward` where its head gives a score."""
    found, config, tokenizer = describe(folder), of_huggingface(folder, str(folder)).config, load_tokenizer(folder)
    refuse_other_tokenizer(folder, tokenizer, config)
    heads: Mapping[str, Head] = {"policy" if found.head == "lm" else "reward": found.head}

    def weights(role: str, mesh: Mesh) -> Params:
        return read_weights(folder, llama_specs(config.model, found.head), mesh)

    def files() -> list[Path]:
        return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]

    return SavedModel(str(folder), config, Card(tokenizer, heads, found.score), 0, weights, None, files)


def find_peft(folder: Path) -> SavedModel:
    """A base model with the adapter of PEFT's that a directory holds: `policy`, or `reward` where that has a head.

    Its tokenizer and chat template are the adapter's where there are some beside it, else the base's.  The base counts
    as what it was trained from.
    """
    lora, (where, head) = describe_adapter(folder), base_model(folder)
    base, role = find_model(where), "policy" if head == "lm" else "reward"
    there = next((name for name in (role, "policy") if name in base.card.heads), None)
    if there is None:
        raise UserError(f"{folder}: the adapter is of a language model, and its base {where} is none")
    own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    tokenizer, template = (load_tokenizer(folder), None) if own else (base.card.tokenizer, base.card.template)
    refuse_other_tokenizer(folder, tokenizer, base.config)
    specs = llama_specs(base.config.model, head)

    def weights(role: str, mesh: Mesh) -> Params:
        division, tree = build_trainable(lora, specs, mesh), base.weights(there, mesh)
        fixed = division.fixed({name: tree[name] for name in specs.keys() & tree.keys()})
        return division.join(read_adapter(folder, lora, division.specs, mesh), fixed)

    def files() -> list[Path]:
        return [folder / "adapter_config.json", *sorted(folder.glob("*.safetensors")), *base.files()]

    config = dataclasses.replace(base.config, init_from=str(where))
    card = Card(tokenizer, {role: head}, template=template)
    return SavedModel(str(folder), config, card, 0, weights, None, files)


def refuse_other_tokenizer(folder: Path, tokenizer: Tokenizer, config: Config) -> None:
    """A UserError where a tokenizer has ids that the model has not."""
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} ids and the model only {config.model.vocab_size:,}\n"
            "  mend: the tokenizer that belongs to this model"
        )


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


def open_model(path: str | Path, mesh: Mesh | MeshConfig | None = None, head: Head | None = "lm") -> Opened:
    """Open a trained model for use: `model.logits(params, tokens_BT)`, `tokenizer.encode(text)`.

    It lies on the mesh, or on one of that config over all devices.

    Raises:
        UserError: there is none, or none with this head; None takes either.
    """
    saved = find_model(path)
    heads = {role: each for role, each in saved.card.heads.items() if role not in HELPERS}
    role = next((role for role in heads if head is None or (head == "lm") == (heads[role] == "lm")), None)
    if role is None:
        held = " and a ".join("language model" if h == "lm" else "reward model" for h in heads.values())
        raise UserError(f"{path}: holds a {held}, no {'language model' if head == 'lm' else 'reward model'}")
    compute = dataclasses.replace(saved.config.compute, attention="auto", remat="none")
    device_mesh = mesh if isinstance(mesh, Mesh) else make_mesh(mesh or MeshConfig())
    model = build_model(saved.config.model, compute, device_mesh, heads[role])
    params = saved.weights(role, device_mesh)
    return Opened(model, params, heads[role], saved.card, saved.config, saved.step, device_mesh)
