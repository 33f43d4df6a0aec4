"""`data corpus / build / inspect`: from text and examples to tokens, and what is trained on."""

import argparse

from jaxrl_llm.verbs import add_config, print_table

HELP = "Prepare data: generate a corpus, build token shards and packing indices, show rows."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    corpus = actions.add_parser("corpus", help="write stories and worked arithmetic to train on without a download")
    corpus.add_argument("out", metavar="OUT.jsonl", help='the file, a row {"text": ...} a document')
    corpus.add_argument("--documents", type=int, default=20_000, metavar="N", help="default: 20000, about 7 MB")
    corpus.add_argument("--seed", type=int, default=0, metavar="S", help="another corpus for another seed; default: 0")
    corpus.add_argument("--force", action="store_true", help="overwrite OUT.jsonl")
    build = actions.add_parser("build", help="tokenise all corpora of a config, and say what is in them")
    add_config(build)
    inspect = actions.add_parser("inspect", help="show rows as they are packed, what is trained on coloured")
    add_config(inspect)
    inspect.add_argument("--rows", type=int, default=2, metavar="N", help="of each corpus; default: 2")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"corpus": _corpus, "build": _build, "inspect": _inspect}[args.action](args)


def _corpus(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from jaxrl_llm.errors import UserError
    from jaxrl_llm.tasks import corpus

    out = Path(args.out)
    if args.documents < 1:
        raise UserError(f"--documents {args.documents}: at least 1 is needed")
    if out.exists() and not args.force:
        raise UserError(f"{out}: exists already\n  mend: another name, or --force to overwrite it")
    draft = out.with_name(f"{out.name}.draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as stream:
            for text in corpus(args.documents, args.seed):
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        draft.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}\n  mend: another folder") from error
    print(f"{out}: {args.documents:,} documents, {out.stat().st_size:,} bytes")
    return 0


def _build(args: argparse.Namespace) -> int:
    from jaxrl_llm.config import load
    from jaxrl_llm.data.build import build_store
    from jaxrl_llm.data.config import DataConfig
    from jaxrl_llm.data.corpora import open_corpora, open_holdouts
    from jaxrl_llm.data.inspect import noun_of, summary
    from jaxrl_llm.data.mixture import named_corpora
    from jaxrl_llm.data.packing import build_index
    from jaxrl_llm.data.readers import Part
    from jaxrl_llm.data.sequences import SequenceStore
    from jaxrl_llm.data.store import TokenStore
    from jaxrl_llm.data.tokenizers import make_tokenizer

    config = load(args.config, args.overrides)
    data, tokenizer, noun = config.data, make_tokenizer(config.tokenizer), noun_of(config)

    def text(name: str, store: TokenStore, packing: str) -> tuple[str, ...]:
        index = build_index(store, data.length, packing)
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
        print_table(texts, ("", "documents", "tokens", f"rows of {data.length}", "bytes/token", "store"))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from rich.console import Console

    from jaxrl_llm.config import load
    from jaxrl_llm.data.inspect import inspect

    inspect(load(args.config, args.overrides), args.rows, Console())
    return 0
