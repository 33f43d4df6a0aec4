"""jaxrl_llm: train a Llama-style language model through its whole life, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrl_llm.saved import Opened

__version__ = "0.1.0"


def load(path: str | Path) -> "Opened":
    """Open a run directory, RUN/checkpoints/STEP, a Hugging Face or a PEFT directory.

    It has `model`, `params`, `tokenizer`, `config`, and `head`: lm, or of a reward model scalar.

    >>> run = jaxrl_llm.load("runs/quickstart")
    >>> run.model.logits(run.params, tokens_BT)

    A reward model scores texts at their last token, the one that ends the answer.  With its bias the answers that
    people preferred are 0 on average, and divided by `score.std` their standard deviation is 1:

    >>> judge = jaxrl_llm.load("runs/reward")
    >>> template = jaxrl_llm.data.chat.find_template(judge.tokenizer)
    >>> jaxrl_llm.evals.score.tokenize_answer(prompt, answer, judge.tokenizer, template).ids  # a row of tokens_BT
    >>> judge.model.score(judge.params, tokens_BT, lengths_B) + judge.card.score.bias
    """
    from jaxrl_llm.saved import open_model

    return open_model(path, head=None)
