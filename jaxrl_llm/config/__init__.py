"""Configs: YAML files with `extends`, then `a.b.c=value`, onto frozen typed dataclasses.

resolved = resolve("pretrain/debug", ["training.steps=100"])
resolved.config.training.steps      # 100
resolved.provenance["training.steps"]   # "command line"
"""

from jaxrl_llm.config.inherit import Planned, planned_at
from jaxrl_llm.config.resolve import Resolved, load, of_huggingface, resolve
from jaxrl_llm.config.root import Config
from jaxrl_llm.config.show import ABSENT, changed, diff, dump, flatten, save

__all__ = [
    "ABSENT",
    "Config",
    "Planned",
    "Resolved",
    "changed",
    "diff",
    "dump",
    "flatten",
    "load",
    "of_huggingface",
    "planned_at",
    "resolve",
    "save",
]
