"""What a run begins with, or goes on with: its tokenizer, its template, its weights, and whether they fit."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from jax.sharding import Mesh

from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.chat import Template, find_template
from jaxrl_llm.data.config import DataConfig
from jaxrl_llm.data.tokenizers import Tokenizer, make_tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf.peft import refuse_other_adapter
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.saved import Base, Card, SavedModel, find_model
from jaxrl_llm.starting import starting_role, starting_weights, token_id
from jaxrl_llm.types import Params
from jaxrl_llm.workdir import has_checkpoint


@dataclass(frozen=True)
class Begin:
    """Where a run comes from; nothing large has been read yet."""

    config: Config
    initial: SavedModel | None  # `init_from`; None: random weights, or a run that goes on and needs them no more
    tokenizer: Tokenizer
    template: Template | None  # None where the data is text
    optimizer: Callable[[Params], Params] | None  # the state of `init_from`'s, if it shall be taken over
    critic: SavedModel | None = None  # `critic.init_from`; None of a run that goes on

    def weights(self, mesh: Mesh, roles: Collection[str] | None = None) -> Params:
        """Whole, by trained role, or of these roles."""
        return starting_weights(self.config, mesh, self.initial, roles, self.critic)

    def fingerprint(self) -> str:
        """Another one for other weights to begin with."""
        if self.initial is not None:
            return self.initial.fingerprint
        text = json.dumps([self.config.seed, asdict(self.config.model)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def card(self, parts: Assembly) -> Card:
        """What goes with the weights into checkpoints."""
        base = None
        if keeps_base(self.config):
            path = "" if self.initial is None else str(Path(self.initial.path).resolve())
            base = Base(path, self.fingerprint())
        template = self.template.source if self.template else self.initial.card.template if self.initial else None
        return Card(self.tokenizer, parts.algo.trained, base=base, template=template)


def begin(config: Config) -> Begin:
    """Find what the run begins with.

    Raises:
        UserError: it is not there, or does not fit the config; or a run that goes on finds other weights there.
    """
    workdir = Path(config.workdir)
    begun = find_model(workdir) if has_checkpoint(workdir) else None  # it has all in itself but for fixed weights
    base = None if begun is None else begun.card.base  # the very checkpoint, though its run may have gone on since
    where = config.init_from if begun is None else base.path if base is not None else None
    initial = find_initial(where) if where else None
    tokenizer = choose_tokenizer(config, begun or initial)
    critic = None
    if begun is None:
        if initial is not None:
            refuse_other_model(config, initial)
        critic = find_critic(config, tokenizer)
        if isinstance(config.trainable, LoraConfig) and config.trainable.adapter is not None:
            refuse_other_adapter(Path(config.trainable.adapter), config.trainable)
        refuse_token(config, initial, tokenizer)
    template = None if isinstance(config.data, DataConfig) else find_template(tokenizer, config.data.template)
    optimizer = initial.optimizer if initial is not None and config.init_optimizer else None
    found = Begin(config, initial, tokenizer, template, optimizer, critic)
    if base is not None and base.fingerprint != found.fingerprint():
        raise UserError(
            f"{workdir} began from {where}, whose weights are others now, and still needs them\n"
            "  mend: put back the ones that it began from, or start a new run in another workdir"
        )
    return found


def find_initial(path: str) -> SavedModel:
    """The model that a run starts from."""
    try:
        return find_model(path)
    except UserError as error:
        raise UserError(
            f"init_from: {error}\n  or run the stage that makes it first: a comment in its config names the command"
        ) from error


def keeps_base(config: Config) -> bool:
    """Whether a run needs the weights that it began from until its end: as reference, or under adapters."""
    return config.algo.cached or bool(config.algo.frozen) or isinstance(config.trainable, LoraConfig)


def choose_tokenizer(config: Config, initial: SavedModel | None) -> Tokenizer:
    """The config's tokenizer; a run that starts from another must have the other's."""
    if initial is None:
        tokenizer = make_tokenizer(config.tokenizer)
    else:
        tokenizer = initial.card.tokenizer
        if config.tokenizer != initial.config.tokenizer and make_tokenizer(config.tokenizer).fingerprint != (
            tokenizer.fingerprint
        ):
            raise UserError(
                f"this config's tokenizer is not that of init_from={config.init_from}, whose ids its weights know\n"
                "  mend: leave out the section `tokenizer`"
            )
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model room for {config.model.vocab_size:,}\n"
            f"  mend: model.vocab_size={tokenizer.vocab_size} or more"
        )
    return tokenizer


def refuse_token(config: Config, initial: SavedModel | None, tokenizer: Tokenizer) -> None:
    """A UserError where there are no logits of which `algo.from_token` could be one, or no such token."""
    token = config.algo.from_token if isinstance(config.algo, RewardConfig) else None
    if token is None:
        return
    token_id(tokenizer, token)
    if initial is None or "reward" in initial.card.heads:
        raise UserError(
            f"algo.from_token={token!r} is a token of a language model, and init_from={config.init_from} is none\n"
            "  mend: init_from=A RUN that trained a policy, or leave out algo.from_token"
        )


def refuse_other_model(config: Config, initial: SavedModel) -> None:
    """A UserError where `init_from` does not have what this run takes from it: its roles, its shapes, an optimizer."""
    if config.init_optimizer and (config.critic.init_from or initial.card.heads.keys() != config.algo.trained.keys()):
        raise UserError(
            f"init_from={config.init_from} trained {' and '.join(initial.card.heads)}, and this run trains "
            f"{' and '.join(config.algo.trained)}"
            + (f", the critic from {config.critic.init_from}" if config.critic.init_from else "")
            + ": its optimizer state is of no use here\n  mend: init_optimizer=false"
        )
    for role, head in config.algo.trained.items():
        if role == "value" and config.critic.init_from is not None:
            continue
        there = starting_role(role, head, initial)
        if config.init_optimizer and initial.card.heads[there] != head:
            raise UserError(
                f"init_from={config.init_from} has another head ({initial.card.heads[there]}) than this run's {role} "
                f"({head}): its optimizer state is of no use here\n  mend: init_optimizer=false"
            )
    if config.init_optimizer and initial.optimizer is None:
        raise UserError(
            f"init_from={config.init_from} is a Hugging Face directory, which has no optimizer state\n"
            "  mend: init_optimizer=false"
        )
    for key, here, there_ in (
        ("optim.kind", config.optim.kind, initial.config.optim.kind),
        ("trainable", config.trainable, initial.config.trainable),
    ):
        if config.init_optimizer and here != there_:
            raise UserError(
                f"init_from={config.init_from} was trained with {key}={there_}, whose optimizer state is of no use "
                f"for {here}\n  mend: init_optimizer=false, or that {key}"
            )
    refuse_other_shape(config.model, initial.config.model, "init_from", str(config.init_from), "model")
    if "value" in config.algo.trained and config.critic.init_from is None:
        shape = initial.config.model_of(starting_role("value", "scalar", initial))
        refuse_other_shape(config.model_of("value"), shape, "init_from", str(config.init_from), "critic.model")


def refuse_other_shape(here: LlamaConfig, there: LlamaConfig, key: str, path: str, section: str) -> None:
    """A UserError where a model's weights cannot be this one's."""
    ours, theirs = vars(here), vars(there)
    keys = [name for name in ours if name not in ("preset", "context") and ours[name] != theirs[name]]
    if keys:
        lines = [f"  {section}.{name}: {theirs[name]!r} there, {ours[name]!r} here" for name in keys]
        raise UserError(
            "\n".join([f"{key}={path} is a model of another shape:", *lines])
            + f"\n  mend: leave out the section `{section}`, which then is that of {key}"
        )


def find_critic(config: Config, tokenizer: Tokenizer) -> SavedModel | None:
    """The model that `critic.init_from` names.  Raises UserError where it reads other tokens, or has another shape."""
    path = config.critic.init_from
    if path is None:
        return None
    try:
        found = find_model(path)
    except UserError as error:
        raise UserError(f"critic.init_from: {error}") from error
    if found.card.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"critic.init_from={path} has another tokenizer than the policy, whose tokens a critic reads one by one\n"
            "  mend: leave it out, and the critic begins as the policy does; a reward model with another tokenizer can "
            "rate answers all the same (rollout.rewards.parts.NAME.retokenise=true)"
        )
    there = found.config.model_of(starting_role("value", "scalar", found))
    refuse_other_shape(config.model_of("value"), there, "critic.init_from", path, "critic.model")
    return found
