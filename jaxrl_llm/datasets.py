"""The data of a run: what it trains on, what is held out, and what the reference says of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.begin import Begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.config import PreferenceDataConfig
from jaxrl_llm.data.corpora import open_corpora, training_source
from jaxrl_llm.data.preferences import preference_source
from jaxrl_llm.data.source import DataSource, check_batch
from jaxrl_llm.heldout import HeldOut, References, eval_size, open_held_out
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.references import cached_references
from jaxrl_llm.types import Tokens


@dataclass(frozen=True)
class Datasets:
    """Opened, and built where it was not there yet."""

    source: DataSource
    stores: Mapping[str, Any]  # of the training corpora, by name
    held_out: HeldOut
    references: References | None  # of the held-out sets, where the reference is cached


def open_datasets(config: Config, parts: Assembly, start: Begin) -> Datasets:
    """All of it.  Raises UserError where data are missing, misshapen, or too few."""
    shown, noun = not config.logging.quiet, parts.algo.consumes
    stores = open_corpora(config.data, start.tokenizer, shown, noun=noun)
    held_out = open_held_out(config, parts, start.tokenizer)
    training: dict[str, Any] | None = None
    held: dict[str, dict[str, Any]] | None = None
    if getattr(config.algo, "reference", None) == "cached":
        weights, fingerprint = start.weights(parts.mesh), start.fingerprint()
        training = cached_references(config, parts, stores, weights, fingerprint)
        held = {
            name: cached_references(config, parts, {name: store}, weights, fingerprint)
            for name, store in held_out.groups.items()
        }
    source = open_source(config, parts, stores, training)
    if noun is Tokens:  # groups of answers are put into as many rows as divide the devices
        check_batch("eval.batch_size", eval_size(config), 1, parts.rows_sharding)
    return Datasets(source, stores, held_out, held)


def open_source(
    config: Config, parts: Assembly, stores: Mapping[str, Any], references: Mapping[str, Any] | None = None
) -> DataSource:
    """The training batches."""
    training, data = config.training, config.data
    dropout = isinstance(config.trainable, LoraConfig) and config.trainable.dropout > 0
    common: dict[str, Any] = {
        "seed": config.seed,
        "batch_size": training.batch_size,
        "micro_batches": training.micro_batches,
        "sharding": parts.batch_sharding,
        "dropout_seed": config.seed if dropout else None,
    }
    if not isinstance(data, PreferenceDataConfig):
        return training_source(stores, data, **common)
    return preference_source(
        stores,
        data,
        noun=parts.algo.consumes,
        head=next(iter(parts.algo.trained.values())),
        steps=training.steps,
        references=references,
        mismatch=parts.algo.mismatched,
        **common,
    )
