"""Config of PPO's critic: a model of its own beside the policy, which may be smaller or larger."""

from typing import Literal

from pydantic import Field

from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.schema import schema


@schema
class CriticConfig:
    """The critic of PPO: what it begins with, and how fast it learns.  It reads the policy's tokens."""

    init_from: str | None = None
    """A reward model, or a language model: a run, a checkpoint or a Hugging Face directory of the policy's tokenizer;
    null: what the policy begins with, or where that is of PPO too, its critic."""
    model: LlamaConfig | None = None
    """Its shape; null: that of critic.init_from, else the policy's."""
    head: Literal["auto", "zero", "random"] = "auto"
    """auto: the head of the reward model or critic that it begins with, and zeros on a language model, so that all
    values are 0; zero, random (std 1/sqrt(D + 1)): a fresh one in any case."""
    lr: float | None = Field(default=None, gt=0.0)
    """Its peak learning rate, on the policy's schedule; null: schedule.lr."""
    warmup: int = Field(default=0, ge=0)
    """Updates in which it learns alone, before the policy begins to move."""
