"""The Llama family: config, spec tree, forward pass, cache.  `build_model` makes the pure functions of one role."""

from jaxrl_llm.models.build import build_model
from jaxrl_llm.models.compute import ComputeConfig
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.models.presets import PRESETS

__all__ = ["PRESETS", "ComputeConfig", "LlamaConfig", "build_model"]
