"""jaxrl_llm: train a Llama-style language model through its whole life, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrl_llm.saved import Opened

__version__ = "0.1.0"


def load(path: str | Path) -> "Opened":
    """Open a run directory, RUN/checkpoints/STEP or a Hugging Face directory: `model`, `params`, `tokenizer`, `config`.

    >>> run = jaxrl_llm.load("runs/quickstart")
    >>> run.model.logits(run.params, tokens_BT)
    """
    from jaxrl_llm.saved import open_model

    return open_model(path, head=None)
