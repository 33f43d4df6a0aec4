"""`data build / inspect` of prompts: how many there are, how long, and some of them as the policy reads them."""

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from jaxrl_llm.begin import begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.parallel import runtime
from jaxrl_llm.rollout.prompts import Prompt, keep_fitting
from jaxrl_llm.rollouts import open_prompts
from jaxrl_llm.training.console import printable


def build_prompts(config: Config) -> None:
    """Say how many prompts there are; build the stores of pretraining text and of `eval.corpora`."""
    tokenizer, prompts = _open(config)
    print(_lengths(config, prompts))
    data = config.data
    assert isinstance(data, PromptDataConfig)
    texts = {"pretrain": data.pretrain} if data.pretrain is not None else {}
    for name, corpus in (texts | dict(config.eval.corpora)).items():
        part = "holdout" if corpus.holdout and name != "pretrain" else "train"
        store = build_store(corpus, part, tokenizer, data.cache_dir, data.workers)  # type: ignore[arg-type]
        print(f"{name}: {store.n_documents:,} document(s), {store.n_tokens:,} tokens, {store.path}")


def inspect_prompts(config: Config, n: int, console: Console) -> None:
    """Show the first prompts, and with a task the answers of its author."""
    tokenizer, prompts = _open(config)
    console.print(_lengths(config, prompts), markup=False, highlight=False)
    for prompt in prompts[:n]:
        shown = Text(printable(tokenizer.decode(list(prompt.ids))))
        if prompt.example is not None:
            shown += Text(f"\n{printable(prompt.example.answer)}", "green")
        console.print(Panel(shown, title=f"{prompt.origin}: {len(prompt.ids)} tokens", title_align="left"))


def _open(config: Config) -> tuple[Tokenizer, list[Prompt]]:
    runtime.start()
    start = begin(config)
    assert isinstance(config.data, PromptDataConfig)
    assert start.template is not None, "of prompts there is one"
    return start.tokenizer, open_prompts(config.data, start.tokenizer, start.template)


def _lengths(config: Config, prompts: list[Prompt]) -> str:
    """Raises UserError where a run would refuse them."""
    rollout, context = config.rollout, config.model.context
    longest = min(rollout.max_prompt_tokens or context, context - rollout.max_new_tokens)
    kept, dropped = keep_fitting(prompts, longest, rollout.overlong)
    sizes = np.asarray([len(prompt.ids) for prompt in kept])
    less = f"; {dropped:,} longer ones dropped" if dropped else ""
    return f"{len(kept):,} prompts of {sizes.min()} to {sizes.max()} tokens, mean {sizes.mean():.1f}{less}"
