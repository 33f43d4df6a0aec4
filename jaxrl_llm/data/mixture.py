"""Several corpora as one: their names, their shares, and what tells one order of reading them from another."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, overload

from jaxrl_llm.data.config import (
    ChatDataConfig,
    CorpusConfig,
    DataConfig,
    ExamplesConfig,
    PreferenceDataConfig,
    StoredDataConfig,
)
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.errors import UserError

SMALLEST_SHARE = 1e-3  # of a corpus in a mixture: the mixing rounds smaller ones away
SINGLE = "data"  # the name of the one corpus that `data.path` gives


@overload
def named_corpora(data: DataConfig) -> dict[str, CorpusConfig]: ...
@overload
def named_corpora(data: ChatDataConfig | PreferenceDataConfig) -> dict[str, ExamplesConfig]: ...
def named_corpora(data: StoredDataConfig) -> Any:
    """The corpora of a config by name: those of `data.mix`, or the one that `data.path` gives.

    Raises:
        UserError: both are given, or neither.
    """
    corpus, default = CorpusConfig if isinstance(data, DataConfig) else ExamplesConfig, type(data)()
    keys = [field.name for field in dataclasses.fields(corpus) if field.name != "weight"]  # `data` has them as well
    short = {key: getattr(data, key) for key in keys if getattr(data, key) != getattr(default, key)}
    if not data.mix and data.path is None:
        raise UserError("there is no data\n  mend: set data.path=FILE, or data.mix.NAME.path=FILE for each of several")
    if data.mix and short:
        given = ", ".join(f"data.{key}" for key in short)
        raise UserError(
            f"{given} describes a single corpus, but data.mix names several ({', '.join(data.mix)})\n"
            f"  mend: say it of each (data.mix.{next(iter(data.mix))}.{next(iter(short))}=...), or leave out data.mix"
        )
    return data.mix or {SINGLE: corpus(**short)}


def weights_of(
    data: StoredDataConfig, sizes: Mapping[str, int], contents: Mapping[str, str], batch_size: int
) -> dict[str, float]:
    """The weight of every corpus in the mixture, by name.

    `sizes` are the rows or examples of each, `contents` says so in words.

    Raises:
        UserError: a weight is too small to count, or a batch would hold the same row or example twice.
    """
    weights = {name: named_corpora(data)[name].weight for name in sizes}
    shorter = "" if isinstance(data, PreferenceDataConfig) else ", or shorter rows (data.length)"
    total = sum(weights.values())
    for name, weight in weights.items():
        if weight < SMALLEST_SHARE * total:
            raise UserError(
                f"data.mix.{name}.weight={weight:g} is less than a thousandth of all weights together: its rows would "
                "hardly ever come\n  mend: a larger weight, or leave it out"
            )
        needed = math.ceil(batch_size * weight / total)
        if sizes[name] < needed:
            raise UserError(
                f"the corpus {name!r} is shorter than one batch: {contents[name]}, and a batch takes {needed} of them\n"
                f"  mend: more data, or a smaller training.batch_size{shorter}"
            )
    return weights


def order_fingerprint(
    stores: Mapping[str, TokenStore] | Mapping[str, SequenceStore], weights: Mapping[str, float], **others: Any
) -> str:
    """Another one where the content of a store, its weight, or one of the `others` (JSON) is."""
    order = {"corpora": {name: [stores[name].fingerprint, weight] for name, weight in weights.items()}, **others}
    return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
