"""`tokenizer train`: a SentencePiece model from text."""

import argparse

from jaxrl_llm.verbs import print_table

HELP = "Train a SentencePiece tokenizer."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="a lossless model: bytes stand in for what it has no piece for")
    train.add_argument("paths", metavar="PATH", nargs="+", help="files, directories, globs; or tfds:NAME")
    train.add_argument("--out", required=True, metavar="FILE.model", help="the model")
    train.add_argument("--vocab-size", type=int, required=True, metavar="N", help="pieces, 260 fixed ones included")
    train.add_argument("--kind", choices=("bpe", "unigram"), default="bpe", help="default: bpe")
    train.add_argument("--field", default="text", help="column of the text in JSONL and parquet; default: text")
    train.add_argument("--separator", metavar="S", help="string between documents in text files; default: none")
    train.add_argument("--force", action="store_true", help="overwrite FILE.model")


def run(args: argparse.Namespace) -> int:
    """Train, and say how well the model packs its text."""
    import itertools
    from pathlib import Path

    from rich.console import Console

    from jaxrl_llm.data.config import CorpusConfig
    from jaxrl_llm.data.readers import read_documents
    from jaxrl_llm.data.tokenizers import train_sentencepiece
    from jaxrl_llm.errors import UserError

    out = Path(args.out)
    if out.exists() and not args.force:
        raise UserError(f"{out}: exists already\n  mend: another name, or --force to overwrite it")
    corpus = CorpusConfig(path=tuple(args.paths), field=args.field, separator=args.separator)
    texts = (document.text for document in read_documents(corpus))
    with Console(stderr=True).status(f"training {out}"):
        tokenizer = train_sentencepiece(texts, args.vocab_size, out, args.kind)
    sample = "".join(document.text[:10_000] for document in itertools.islice(read_documents(corpus), 100))
    bytes_per_token = len(sample.encode()) / len(tokenizer.encode(sample))
    special = f"unk 0, BOS {tokenizer.bos_id}, EOS {tokenizer.eos_id}, PAD {tokenizer.pad_id}"
    print_table(
        [
            ("model", str(out)),
            ("vocabulary", f"{tokenizer.vocab_size:,} ({args.kind}; {special}; 256 bytes)"),
            ("bytes/token", f"{bytes_per_token:.2f} on the first documents"),
            ("fingerprint", tokenizer.fingerprint[:16]),
        ]
    )
    return 0
