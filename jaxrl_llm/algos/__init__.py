"""Algorithms: a pure loss each, in one explicit table."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxrl_llm.algos import pretrain
from jaxrl_llm.types import Algo, Model

AlgoConfig = pretrain.PretrainConfig

ALGOS: Mapping[str, Callable[[Any, Mapping[str, Model]], Algo]] = {
    "pretrain": pretrain.build,
}
