"""`export MODEL OUT`: a model as the directory that Hugging Face's transformers or PEFT loads, tokenizer included."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxrl_llm.saved import Card

HELP = """Write a model for Hugging Face's transformers: config.json, safetensors, tokenizer and chat template.
Adapters are added in; or --adapter writes them alone."""
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a run directory, RUN/checkpoints/STEP, or a directory of Hugging Face or PEFT"
    )
    parser.add_argument("out", metavar="OUT", help="the directory to be made")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights on disk; default: float32"
    )
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="of a file of weights; default: 5GB")
    parser.add_argument(
        "--adapter", action="store_true", help="of a run with trainable.kind=lora: its adapter alone, for PEFT"
    )


def run(args: argparse.Namespace) -> int:
    """Export; returns 0."""
    from pathlib import Path

    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.workdir import new_directory

    max_shard = size_of(args.max_shard_size)
    runtime.start()
    out = Path(args.out)
    with new_directory(out) as draft:
        files, notes = write_adapter(args, draft) if args.adapter else write_whole(args, draft, max_shard)
        total = sum(file.stat().st_size for file in files)
    print(f"{args.model}: {total:,} bytes of {args.dtype} in {len(files)} file(s) -> {out}")
    for note in notes:
        print(f"note: {note}")
    return 0


def write_whole(args: argparse.Namespace, directory: "Path", max_shard: int) -> tuple[list["Path"], list[str]]:
    """Write the model, adapters added in; returns the files of weights, and what is to be known."""
    from jaxrl_llm.data.tokenizers import save_tokenizer
    from jaxrl_llm.models.hf import write_model
    from jaxrl_llm.saved import open_model

    opened = open_model(args.model, head=None)
    # transformers reads one number off a model: the score; nothing of theirs has a second head.
    params = {name: leaf for name, leaf in opened.params.items() if name != "safety"}
    files = write_model(
        directory,
        opened.config.model,
        "lm" if opened.head == "lm" else "scalar",
        params,
        dtype=args.dtype,
        max_shard=max_shard,
        special=special_ids(opened.card, opened.head != "lm"),
        score=opened.card.score,
    )
    save_tokenizer(opened.tokenizer, directory, chat_template(opened.card))
    without = "the safety head is left out, of which transformers knows nothing; the run has it"
    return files, [without] if "safety" in opened.params else []


def chat_template(card: "Card") -> str | None:
    """The template that the model was trained with, if that is not the tokenizer's own; it writes BOS where we do."""
    from jaxrl_llm.data.chat import with_bos

    return None if card.template is None else with_bos(card.tokenizer, card.template)


def write_adapter(args: argparse.Namespace, directory: "Path") -> tuple[list["Path"], list[str]]:
    """Write the adapter alone; returns the file of weights, and what is to be known."""
    from pathlib import Path

    from jaxrl_llm.assemble import HELPERS
    from jaxrl_llm.data.tokenizers import save_tokenizer
    from jaxrl_llm.models.hf import is_huggingface, write_adapter
    from jaxrl_llm.models.hf.write import write_json
    from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
    from jaxrl_llm.saved import find_model

    saved = find_model(args.model)
    base = saved.card.base
    if saved.adapters is None or base is None:
        raise UserError(f"{args.model}: has no adapters of its own\n  mend: leave out --adapter")
    if not base.path:
        raise UserError(
            f"{args.model}: its adapters are for random weights, which are in no file\n  mend: leave out --adapter"
        )
    (role,) = saved.card.heads.keys() - HELPERS
    found = saved.adapters(role, make_mesh(MeshConfig()))
    file = write_adapter(directory, found.config, found.trained, found.specs, dtype=args.dtype, base=base.path)
    special = special_ids(saved.card, for_scores=False)
    write_json(directory / "generation_config.json", {name: id for name, id in special.items() if id is not None})
    save_tokenizer(saved.card.tokenizer, directory, chat_template(saved.card))
    notes = []
    if not is_huggingface(Path(base.path)):
        notes.append(
            f"the base, {base.path}, is a run, which PEFT cannot open: `jaxrl-llm export` it as well, and write its "
            f"directory into adapter_config.json as base_model_name_or_path"
        )
    if saved.card.score is not None:
        notes.append("how the scores lie (bias, mean, std) has no place in an adapter, and is left out; the run has it")
    return [file], notes


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
