"""How a component declares its config: a frozen, keyword-only, strictly typed dataclass.

Floor 0.  Each component's config sits beside the component; `config.py` puts them together.
Strict: an unknown key is refused, a bool is never a number, "8" is never 8.  An int is a float where one is asked for.
"""

from typing import dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass_transform(kw_only_default=True, frozen_default=True)
def schema(cls: type) -> type:
    """Class decorator: `@schema class AdamwConfig: lr: float = 3e-4`."""
    config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    return dataclass(cls, frozen=True, kw_only=True, config=config)
