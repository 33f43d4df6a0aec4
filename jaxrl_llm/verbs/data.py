"""`data corpus / task / build / inspect`: from text and examples to tokens, and what is trained on."""

import argparse
from collections.abc import Iterable

from jaxrl_llm.verbs import add_config, print_table

HELP = "Prepare data: generate a corpus or a task's rows, build token shards and packing indices, show rows."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    corpus = actions.add_parser("corpus", help="write stories and worked arithmetic to train on without a download")
    corpus.add_argument("out", metavar="OUT.jsonl", help='the file, a row {"text": ...} a document')
    corpus.add_argument("--documents", type=int, default=20_000, metavar="N", help="default: 20000, about 7 MB")
    corpus.add_argument("--seed", type=int, default=0, metavar="S", help="another corpus for another seed; default: 0")
    corpus.add_argument("--force", action="store_true", help="overwrite OUT.jsonl")
    corpus.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="stories=0.5 of the documents, drills=0 of the others; of problems difficulty=[1,3] largest=200",
    )
    task = actions.add_parser("task", help="write rows of a task: to fine-tune on, to compare answers of, or to ask")
    task.add_argument("kind", metavar="KIND", help="arithmetic or gsm8k")
    task.add_argument("out", metavar="OUT.jsonl", help="the file")
    task.add_argument("--rows", choices=("sft", "pairs", "problems"), required=True, help="what a row is")
    task.add_argument("-n", "--examples", type=int, metavar="N", help="rows; default: all, or 10000 of what has no end")
    task.add_argument("--seed", type=int, default=0, metavar="S", help="other problems for another seed; default: 0")
    task.add_argument("--split", choices=("train", "test"), default="train", help="whose problems; default: train")
    task.add_argument("--force", action="store_true", help="overwrite OUT.jsonl")
    task.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="of the task, e.g. difficulty=[1,2] forgets=0.7"
    )
    build = actions.add_parser("build", help="tokenise all corpora of a config, and say what is in them")
    add_config(build)
    inspect = actions.add_parser("inspect", help="show rows as they are packed, what is trained on coloured")
    add_config(inspect)
    inspect.add_argument("--rows", type=int, default=2, metavar="N", help="of each corpus; default: 2")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"corpus": _corpus, "task": _task, "build": _build, "inspect": _inspect}[args.action](args)


def _corpus(args: argparse.Namespace) -> int:
    from jaxrl_llm.config.layers import parse_overrides
    from jaxrl_llm.config.validate import build
    from jaxrl_llm.errors import UserError
    from jaxrl_llm.tasks import CorpusKinds, corpus

    if args.documents < 1:
        raise UserError(f"--documents {args.documents}: at least 1 is needed")
    kinds = build(CorpusKinds, [parse_overrides(args.overrides)], {})[0]
    return _write(args, ({"text": text} for text in corpus(args.documents, args.seed, kinds)), "documents")


def _task(args: argparse.Namespace) -> int:
    from jaxrl_llm.errors import UserError
    from jaxrl_llm.verbs.data_task import task_rows

    if args.examples is not None and args.examples < 1:
        raise UserError(f"--examples {args.examples}: at least 1 is needed")
    return _write(args, task_rows(args), "rows")


def _write(args: argparse.Namespace, rows: Iterable[dict], noun: str) -> int:
    """OUT.jsonl, whole or not at all."""
    import json
    from pathlib import Path

    from jaxrl_llm.errors import UserError

    out, count = Path(args.out), 0
    if out.exists() and not args.force:
        raise UserError(f"{out}: exists already\n  mend: another name, or --force to overwrite it")
    draft = out.with_name(f"{out.name}.draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        draft.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}\n  mend: another folder") from error
    print(f"{out}: {count:,} {noun}, {out.stat().st_size:,} bytes")
    return 0


def _build(args: argparse.Namespace) -> int:
    from jaxrl_llm.config import load
    from jaxrl_llm.data.build import build_store
    from jaxrl_llm.data.config import DataConfig, PromptDataConfig
    from jaxrl_llm.data.corpora import open_corpora, open_holdouts
    from jaxrl_llm.data.inspect import noun_of, summary
    from jaxrl_llm.data.mixture import named_corpora
    from jaxrl_llm.data.packing import build_index
    from jaxrl_llm.data.readers import Part
    from jaxrl_llm.data.sequences import SequenceStore
    from jaxrl_llm.data.store import TokenStore
    from jaxrl_llm.data.tokenizers import make_tokenizer

    config = load(args.config, args.overrides)
    data = config.data
    if isinstance(data, PromptDataConfig):
        from jaxrl_llm.verbs.data_prompts import build_prompts

        build_prompts(config)
        return 0
    tokenizer, noun = make_tokenizer(config.tokenizer), noun_of(config)

    def text(name: str, store: TokenStore, packing: str) -> tuple[str, ...]:
        index = build_index(store, config.length, packing)
        counts = [f"{n:,}" for n in (store.n_documents, store.n_tokens, index.n_rows)]
        return name, *counts, f"{store.n_bytes / store.n_tokens:.2f}", str(store.path)

    texts = []
    for part, opened in (("", open_corpora), (" (holdout)", open_holdouts)):
        for name, store in opened(data, tokenizer, noun=noun).items():
            if isinstance(store, SequenceStore):
                print("\n  ".join([f"{name}{part}: {store.path}", *summary(store, named_corpora(data)[name])]))
            else:
                packing = data.packing if isinstance(data, DataConfig) and not part else "concat"
                texts.append(text(f"{name}{part}", store, packing))
    for name, corpus in config.eval.corpora.items():
        kept: Part = "holdout" if corpus.holdout else "train"
        store = build_store(corpus, kept, tokenizer, data.cache_dir, data.workers)
        texts.append(text(f"{name} (eval)", store, "concat"))
    if texts:
        print_table(texts, ("", "documents", "tokens", f"rows of {config.length}", "bytes/token", "store"))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from rich.console import Console

    from jaxrl_llm.config import load
    from jaxrl_llm.data.config import PromptDataConfig
    from jaxrl_llm.data.inspect import inspect

    config = load(args.config, args.overrides)
    if isinstance(config.data, PromptDataConfig):
        from jaxrl_llm.verbs.data_prompts import inspect_prompts

        inspect_prompts(config, args.rows, Console())
    else:
        inspect(config, args.rows, Console())
    return 0
