"""`export MODEL OUT`: a model as the directory that Hugging Face's transformers loads, tokenizer included."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from jaxrl_llm.saved import Card

HELP = "Write a model for Hugging Face's transformers: config.json, safetensors, tokenizer and chat template."
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, RUN/checkpoints/STEP, or a Hugging Face one")
    parser.add_argument("out", metavar="OUT", help="the directory to be made")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights on disk; default: float32"
    )
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="of a file of weights; default: 5GB")


def run(args: argparse.Namespace) -> int:
    """Export; returns 0."""
    from pathlib import Path

    from jaxrl_llm.data.tokenizers import save_tokenizer
    from jaxrl_llm.models.hf import write_model
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.saved import open_model
    from jaxrl_llm.workdir import new_directory

    max_shard = size_of(args.max_shard_size)
    runtime.start()
    out = Path(args.out)
    with new_directory(out) as draft:
        opened = open_model(args.model, head=None)
        files = write_model(
            draft,
            opened.config.model,
            opened.head,
            opened.params,
            dtype=args.dtype,
            max_shard=max_shard,
            special=special_ids(opened.card, opened.head != "lm"),
            score=opened.card.score,
        )
        save_tokenizer(opened.tokenizer, draft, opened.card.template)
        total = sum(file.stat().st_size for file in files)
    print(f"{args.model}: {total:,} bytes of {args.dtype} in {len(files)} file(s) -> {out}")
    return 0


def size_of(text: str) -> int:
    """Bytes of `5GB`, `300MB`, `4096`."""
    match = re.fullmatch(r"(\d+)(|KB|MB|GB)", text.strip().upper())
    if match is None or int(match[1]) == 0:
        raise UserError(f"--max-shard-size {text}: expected a size such as 5GB or 300MB")
    return int(match[1]) * UNITS[match[2]]


def special_ids(card: "Card", for_scores: bool) -> dict[str, Any]:
    """The special ids for config.json.

    transformers reads a score at the last token that is not PAD.  So PAD must be one that ends no answer, or the score
    would be read before it: BOS, where the tokenizer has no PAD apart from its end tokens.
    """
    tokenizer = card.tokenizer
    stops = [tokenizer.eos_id, *sorted(tokenizer.stop_ids - {tokenizer.eos_id})]
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops[0] if len(stops) == 1 else stops}
    if not for_scores:
        return {**special, "pad_token_id": None}
    pad = next((id for id in (tokenizer.pad_id, tokenizer.bos_id) if id not in stops), None)
    if pad is None:
        raise UserError(
            "a reward model needs a token to pad with, and this tokenizer has none besides those that end a text\n"
            "  mend: a pad_token in its tokenizer_config.json"
        )
    return {**special, "pad_token_id": pad}
