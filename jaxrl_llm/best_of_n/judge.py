"""Who says which answer is the best: a reward model, asked once about equal answers."""

from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.assemble import check_divides
from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.evaluation import progress
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.saved import find_model
from jaxrl_llm.scorers import check_reward_model, model_scorer, read

TOGETHER = 64  # prompts whose answers it is given at a time


def open_judge(
    path: str,
    mesh: Mesh,
    tokenizer: Tokenizer,
    first: Prompt,
    *,
    batch_size: int,
    longest: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Scorer:
    """The raw scores of a reward model of any tokenizer; see `scorers.model_scorer`.  `tokenizer` is the policy's."""
    part = ModelRewardConfig(path=path, retokenise=True)
    return model_scorer(
        part, mesh, batch_size=batch_size, policy_tokenizer=tokenizer, first=first, longest=longest, warn=warn
    )


def check_judge(path: str, mesh: Mesh, tokenizer: Tokenizer, first: Prompt) -> None:
    """A UserError where `open_judge` would raise one; no weights are read."""
    saved = find_model(path)
    check_reward_model(ModelRewardConfig(path=path, retokenise=True), saved, tokenizer)
    check_divides(saved.config.model, mesh)
    read(first, "", saved.card.tokenizer, find_template(saved.card.tokenizer))


def score(judge: Scorer, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], title: str) -> np.ndarray:
    """float32 [B, N]: what it gives the N answers to each of B prompts.  Equal answers to a prompt tie to the bit."""
    found: list[list[float]] = []
    with progress(title, sum(map(len, texts)), "answers") as advance:
        for at in range(0, len(prompts), TOGETHER):
            distinct = [list(dict.fromkeys(each)) for each in texts[at : at + TOGETHER]]
            asked = [prompt for prompt, each in zip(prompts[at:], distinct, strict=False) for _ in each]
            scores = iter(judge(asked, [text for each in distinct for text in each]).tolist())
            for each, several in zip(distinct, texts[at:], strict=False):
                worth = {text: next(scores) for text in each}
                found.append([worth[text] for text in several])
                advance(len(several))
    return np.asarray(found, np.float32)
