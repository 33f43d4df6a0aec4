"""The data of a run: what it trains on, what is held out, and what the reference says of both."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrl_llm.algos import AlgoConfig
from jaxrl_llm.algos.reward import MARGINS, RewardConfig
from jaxrl_llm.alike import same_stores
from jaxrl_llm.assemble import Assembly
from jaxrl_llm.begin import Begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.config import ChatDataConfig, DataConfig, PreferenceDataConfig, PromptDataConfig
from jaxrl_llm.data.corpora import open_corpora, open_rows, training_source
from jaxrl_llm.data.preferences import preference_source
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.source import DataSource, check_batch
from jaxrl_llm.errors import UserError
from jaxrl_llm.heldout import HeldOut, References, eval_size, open_held_out
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.parallel.distributed import main_first
from jaxrl_llm.references import cached_references
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.rollouts import open_rollouts
from jaxrl_llm.types import Labelled, Rollouts, Tokens


@dataclass(frozen=True)
class Datasets:
    """Opened, and built where it was not there yet."""

    source: DataSource | RolloutSource
    stores: Mapping[str, Any]  # of the training corpora, by name
    held_out: HeldOut
    references: References | None  # of the held-out sets, where the reference is cached

    def length(self, config: Config) -> int:
        """T: tokens in a row of the batches."""
        return self.source.length if isinstance(self.source, RolloutSource) else config.length

    def sequences(self) -> dict[str, SequenceStore]:
        """The stores of conversations and answers among them, those trained on first; text has none."""
        rows = {name: rows.store for name, rows in self.held_out.rows.items() if isinstance(rows, ChatRows)}
        held_out = {f"{name}, held out": store for name, store in (rows | dict(self.held_out.groups)).items()}
        return {name: store for name, store in self.stores.items() if isinstance(store, SequenceStore)} | held_out


def open_datasets(config: Config, parts: Assembly, start: Begin) -> Datasets:
    """All of it; process 0 reads files first, then all run the reference together.

    Raises UserError where data are missing, misshapen, or too few.
    """
    if parts.algo.consumes is Rollouts:
        held_out = main_first(lambda: open_held_out(config, parts, start.tokenizer))
        same_stores({}, held_out)
        if held_out.rows:
            check_batch("eval.batch_size", eval_size(config), 1, parts.rows_sharding)
        return Datasets(open_rollouts(config, parts, start), {}, held_out, None)
    stores, held_out = main_first(lambda: open_stores(config, parts, start))
    same_stores(stores, held_out)
    training: dict[str, Any] | None = None
    held: dict[str, dict[str, Any]] | None = None
    if config.algo.cached:
        weights, fingerprint = functools.cache(lambda: start.weights(parts.mesh)), start.fingerprint()
        training = cached_references(config, parts, stores, weights, fingerprint)
        held = {
            name: cached_references(config, parts, {name: store}, weights, fingerprint)
            for name, store in held_out.groups.items()
        }
    source = open_source(config, parts, stores, training)
    if parts.algo.consumes is Tokens or held_out.rows:  # groups of answers take as many rows as divide the devices
        check_batch("eval.batch_size", eval_size(config), 1, parts.rows_sharding)
    return Datasets(source, stores, held_out, held)


def open_stores(config: Config, parts: Assembly, start: Begin) -> tuple[dict[str, Any], HeldOut]:
    """What is read from disk: the training corpora, and what is held out; built where it is not there yet."""
    shown, noun = not config.logging.quiet, parts.algo.consumes
    assert not isinstance(config.data, PromptDataConfig)
    stores = open_corpora(config.data, start.tokenizer, shown, noun=noun)
    if noun is not Tokens:
        refuse_idle_options(config.algo, stores)
    elif isinstance(config.data, DataConfig | ChatDataConfig):
        for store in stores.values():
            open_rows(store, config.data)  # which writes the packing index, if there is none
    return stores, open_held_out(config, parts, start.tokenizer)


def refuse_idle_options(algo: AlgoConfig, stores: Mapping[str, SequenceStore]) -> None:
    """A UserError where no row of all training data has what an option of the algorithm reads.

    The option would do nothing, and nobody would be told.  That some rows are without is normal.
    """

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(store, name) for store in stores.values()])

    if algo.consumes is Labelled:
        for label, word in ((1, "wanted"), (0, "unwanted")):
            if not (column("label") == label).any():
                raise UserError(
                    f"algo.kind={algo.kind} tells wanted answers from unwanted ones, and no row of the data is {word}"
                    "\n  mend: data with both (see data.columns), or algo.kind=sft for answers that are all good"
                )
    if not isinstance(algo, RewardConfig):
        return
    if (n := int((column("label") == 1).sum() if algo.consumes is Labelled else len(column("rating")))) < 2:
        raise UserError(
            f"{n} answer of the data is wanted or preferred, and it takes two to say how a reward model's scores lie\n"
            "  mend: more data"
        )
    needed = (  # option, whether it is set, the column that it reads, whether any row has it
        ("margin", algo.margin in MARGINS, "rating", column("rating") >= 0),
        ("margin", algo.margin == "column", "margin", np.nan_to_num(column("margin")) != 0),
        ("safety_weight", algo.safety_weight > 0, "safe", column("safe") >= 0),
    )
    for option, is_set, name, there in needed:
        if is_set and not there.any():
            raise UserError(
                f"algo.{option}={getattr(algo, option)} would do nothing: no row of the data has a `{name}`\n"
                f"  mend: data with a column `{name}` (data.columns names it), or leave out algo.{option}"
            )


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
    if isinstance(data, DataConfig | ChatDataConfig):
        return training_source(stores, data, **common)
    assert isinstance(data, PreferenceDataConfig)
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
