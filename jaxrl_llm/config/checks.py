"""What must fit between fields, as far as it can be known without devices and without opening data."""

from collections.abc import Iterator

from jaxrl_llm.config.problems import Problem
from jaxrl_llm.config.root import Config
from jaxrl_llm.data.config import CorpusConfig, DataConfig


def check(config: Config) -> list[Problem]:
    """All misfits, each at the key that is the likeliest to be mended."""
    return [problem for part in (_model, _training, _data, _checkpoint) for problem in part(config)]


def _model(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.n_heads % model.n_kv_heads:
        yield Problem(
            ("model", "n_kv_heads"), f"{model.n_kv_heads} does not divide model.n_heads, which is {model.n_heads}"
        )
    if model.head_dim is None and model.d_model % model.n_heads:
        yield Problem(
            ("model", "n_heads"),
            f"{model.n_heads} does not divide model.d_model, which is {model.d_model}; or set model.head_dim",
        )
    elif model.channels % 2:
        yield Problem(
            ("model", "head_dim" if model.head_dim is not None else "n_heads"),
            f"gives heads of {model.channels} channels; rotary embeddings turn pairs, so it must be even",
        )
    if config.data.length > model.context:
        yield Problem(
            ("data", "length"), f"{config.data.length} is longer than model.context, which is {model.context}"
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


def _data(config: Config) -> Iterator[Problem]:
    data, blank = config.data, DataConfig()
    single = [name for name in CorpusConfig.__dataclass_fields__ if hasattr(data, name)]
    if not data.mix and data.path is None and config.training.steps:
        yield Problem(("data",), "there is no data: set data.path=FILE, or data.mix.NAME.path=FILE for each of several")
    elif data.mix:
        for name in single:
            if getattr(data, name) != getattr(blank, name):
                mend = f"data.mix.{next(iter(data.mix))}.{name}"
                yield Problem(
                    ("data", name), f"describes a single corpus, but data.mix names several; say it of each: {mend}"
                )
    taken = {"train"} | ({"validation"} if data.holdout else set())  # in metrics.jsonl, as the names of splits
    for section, names in (("data.mix", data.mix), ("eval.corpora", config.eval.corpora)):
        for name in names.keys() & taken:
            yield Problem((*section.split("."), name), f"the name {name!r} is taken; call it otherwise")
    for name in data.mix.keys() & config.eval.corpora.keys():
        yield Problem(
            ("eval", "corpora", name), f"data.mix has the name {name!r} too: their results could not be told apart"
        )


def _checkpoint(config: Config) -> Iterator[Problem]:
    every, keep = config.checkpoint.every, config.checkpoint.keep_every
    if every and keep and keep % every:
        yield Problem(
            ("checkpoint", "keep_every"),
            f"{keep} is no multiple of checkpoint.every, which is {every}: such steps are never saved",
        )
