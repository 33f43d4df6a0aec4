"""What must fit between fields, as far as it can be known without devices and without opening data."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrl_llm.config.problems import Problem
from jaxrl_llm.config.rollout_checks import check_prompts, check_rollout
from jaxrl_llm.config.root import Config
from jaxrl_llm.data.config import CorpusConfig, DataConfig, ExamplesConfig, PromptDataConfig
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.types import Labelled, Pairs, Rollouts, Tokens

# What each noun is made of, but for pretraining, which reads text.
DATA_OF: Mapping[type, str] = {Tokens: "chat", Pairs: "preferences", Labelled: "preferences", Rollouts: "prompts"}


def check(config: Config) -> list[Problem]:
    """All misfits, each at the key that is the likeliest to be mended."""
    parts = (
        _model,
        _training,
        _offload,
        check_prompts if isinstance(config.data, PromptDataConfig) else _data,
        _eval,
        _fits,
        check_rollout,
    )
    return [problem for part in (*parts, _checkpoint) for problem in part(config)]


def _model(config: Config) -> Iterator[Problem]:
    unread = (
        config.init_from is not None and config.model == LlamaConfig()
    )  # not there, which is said when it is opened
    if not isinstance(config.data, PromptDataConfig) and config.data.length > config.model.context and not unread:
        yield Problem(
            ("data", "length"), f"{config.data.length} is longer than model.context, which is {config.model.context}"
        )
    yield from _shape(config.model, ("model",))
    if config.critic.model is not None:
        yield from _shape(config.critic.model, ("critic", "model"))


def _shape(model: LlamaConfig, section: tuple[str, ...]) -> Iterator[Problem]:
    name = ".".join(section)
    if model.n_heads % model.n_kv_heads:
        yield Problem(
            (*section, "n_kv_heads"), f"{model.n_kv_heads} does not divide {name}.n_heads, which is {model.n_heads}"
        )
    if model.head_dim is None and model.d_model % model.n_heads:
        yield Problem(
            (*section, "n_heads"),
            f"{model.n_heads} does not divide {name}.d_model, which is {model.d_model}; or set {name}.head_dim",
        )
    elif model.channels % 2:
        yield Problem(
            (*section, "head_dim" if model.head_dim is not None else "n_heads"),
            f"gives heads of {model.channels} channels; rotary embeddings turn pairs, so it must be even",
        )


def _training(config: Config) -> Iterator[Problem]:
    training = config.training
    if training.batch_size % training.micro_batches:
        yield Problem(
            ("training", "micro_batches"),
            f"{training.micro_batches} does not divide training.batch_size, which is {training.batch_size}",
        )
    if config.init_optimizer and config.init_from is None:
        yield Problem(("init_optimizer",), "there is nothing to take the optimizer from: set init_from")


def _offload(config: Config) -> Iterator[Problem]:
    """Something must be there that is only read; a reference that is the base under adapters takes part in training."""
    adapted = isinstance(config.trainable, LoraConfig)
    rated = any(part.kind == "model" for part in config.rollout.rewards.parts.values())
    if config.compute.offload == "none" or rated or (config.algo.frozen and not adapted):
        return
    why = "its reference is the base under the adapters" if config.algo.frozen else "it runs no reference"
    yield Problem(
        ("compute", "offload"), f"frozen: nothing of this run can wait on the host: {why}, and no reward model is run"
    )


def _data(config: Config) -> Iterator[Problem]:
    data = config.data
    assert not isinstance(data, PromptDataConfig)
    blank, corpus = type(data)(), CorpusConfig if isinstance(data, DataConfig) else ExamplesConfig
    single = [name for name in corpus.__dataclass_fields__ if hasattr(data, name)]
    if not data.mix and data.path is None and config.training.steps:
        yield Problem(("data",), "there is no data: set data.path=FILE, or data.mix.NAME.path=FILE for each of several")
    elif data.mix:
        for name in single:
            if getattr(data, name) != getattr(blank, name):
                mend = f"data.mix.{next(iter(data.mix))}.{name}"
                yield Problem(
                    ("data", name), f"describes a single corpus, but data.mix names several; say it of each: {mend}"
                )


def _eval(config: Config) -> Iterator[Problem]:
    """The names of what is evaluated, which metrics.jsonl tells apart by them."""
    data = config.data
    mix = {} if isinstance(data, PromptDataConfig) else data.mix
    held = any(getattr(data, key, None) for key in ("holdout", "holdout_rows"))
    taken = dict.fromkeys(["train", *(["validation"] if held else [])], "")
    for section, names in (
        ("data.mix", mix),
        ("eval.corpora", config.eval.corpora),
        ("eval.examples", config.eval.examples),
        ("eval.tasks", config.eval.tasks),
    ):
        for name in names:
            if name in taken:
                what = f"{taken[name]} has the name {name!r} too" if taken[name] else f"the name {name!r} is taken"
                yield Problem(
                    (*section.split("."), name), f"{what}: their results could not be told apart; call it otherwise"
                )
        taken |= dict.fromkeys(names, section)
    if config.eval.tasks and "policy" not in config.algo.trained:
        yield Problem(("eval", "tasks"), "are answered by a language model; this run trains a reward model")


def _fits(config: Config) -> Iterator[Problem]:
    """What an algorithm reads, and what of it there is."""
    data, algo = config.data, config.algo
    wanted = "text" if algo.kind == "pretrain" else DATA_OF[algo.consumes]
    if data.kind != wanted:
        yield Problem(("data", "kind"), f"algo.kind={algo.kind} reads data.kind={wanted}, and this is {data.kind}")
    if isinstance(data, DataConfig | PromptDataConfig):
        if config.eval.examples:
            yield Problem(
                ("eval", "examples"), f"are conversations or preferences, and the data is {data.kind}: see eval.corpora"
            )
    else:
        if data.max_length is not None and data.max_length > data.length:
            yield Problem(
                ("data", "max_length"), f"{data.max_length} is longer than data.length, which is {data.length}"
            )
        parts: Mapping[str, Any] = data.mix or {"": data}
        for name, each in parts.items():
            if each.holdout and each.holdout_rows is not None:
                path = ("data", "mix", name) if name else ("data",)
                yield Problem((*path, "holdout_rows"), "says the same as holdout: set one of them")
    adapter = config.trainable.adapter if isinstance(config.trainable, LoraConfig) else None
    if adapter is not None and (algo.frozen or algo.cached):
        yield Problem(
            ("trainable", "adapter"),
            f"the reference would be the model without it, and algo.kind={algo.kind} measures from where it began; "
            f"init_from={adapter} adds it in first",
        )
    if config.eval.corpora and "policy" not in algo.trained:
        yield Problem(("eval", "corpora"), "is text for a language model; this run trains a reward model")


def _checkpoint(config: Config) -> Iterator[Problem]:
    every, keep = config.checkpoint.every, config.checkpoint.keep_every
    if every and keep and keep % every:
        yield Problem(
            ("checkpoint", "keep_every"),
            f"{keep} is no multiple of checkpoint.every, which is {every}: such steps are never saved",
        )
