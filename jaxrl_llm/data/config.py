"""Config of tokenizers and corpora."""

from typing import Annotated, Literal

from pydantic import Field

from jaxrl_llm.schema import schema


@schema
class BytesConfig:
    """UTF-8 bytes, 256 ids and BOS, EOS, PAD: needs no file."""

    kind: Literal["bytes"] = "bytes"


@schema
class SentencePieceConfig:
    """A SentencePiece .model file, made here by `jaxrl-llm tokenizer train` or elsewhere."""

    kind: Literal["sentencepiece"] = "sentencepiece"
    path: str
    """The .model file."""


@schema
class JsonConfig:
    """A tokenizer.json by itself."""

    kind: Literal["json"] = "json"
    path: str
    """The file, which may be gzipped."""
    bos_token: str | None = None
    """How it spells BOS; null: as the file says, else by the usual names."""
    eos_token: str | None = None
    """How it spells EOS; null: by the usual names."""


@schema
class HuggingFaceConfig:
    """The tokenizer of a Hugging Face directory: tokenizer.json or tokenizer.model, with what the files beside say."""

    kind: Literal["huggingface"] = "huggingface"
    path: str
    """The directory."""


TokenizerConfig = Annotated[
    BytesConfig | SentencePieceConfig | JsonConfig | HuggingFaceConfig, Field(discriminator="kind")
]


@schema
class CorpusConfig:
    """Where documents come from."""

    path: str | tuple[str, ...]
    """A file, a directory, a glob, a list of these, or `tfds:NAME[/CONFIG][:VERSION]` or `tfds:DIRECTORY`."""
    format: Literal["auto", "text", "jsonl", "parquet", "array_record", "tfds"] = "auto"
    """auto goes by the file's name: .txt, .jsonl, .jsonl.gz, .parquet, .array_record."""
    field: str = "text"
    """The column that holds the text (jsonl, parquet, tfds, array_record of JSON)."""
    separator: str | None = None
    """In text files: the string between two documents, dropped with the line breaks around it; null: a file is one."""
    split: str = "train"
    """The split of a TFDS data set."""
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Last share of each file's documents, kept for evaluation; of its characters where the file is one document."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of the rows in a mixture, relative to the other weights."""


@schema
class DataConfig:
    """Training data: one corpus, or a mixture of named ones, packed into rows."""

    path: str | tuple[str, ...] | None = None
    """Short for a single corpus: see `CorpusConfig.path`; so are the five keys after it."""
    format: Literal["auto", "text", "jsonl", "parquet", "array_record", "tfds"] = "auto"
    field: str = "text"
    separator: str | None = None
    split: str = "train"
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    mix: dict[str, CorpusConfig] = Field(default_factory=dict)
    """Named corpora, sampled row by row with their weights."""
    length: int = Field(default=1024, ge=2)
    """T: tokens in a row."""
    packing: Literal["concat", "first_fit"] = "concat"
    """concat fills rows to the last token and splits documents; first_fit keeps whole those that fit, and pads."""
    isolate_documents: bool = True
    """A document in a packed row sees only itself, and its positions start at 0."""
    shuffle: bool = True
    """Global shuffle of rows, another order each epoch."""
    cache_dir: str | None = None
    """Where token stores are built; null is $XDG_CACHE_HOME/jaxrl_llm (or ~/.cache/jaxrl_llm)."""
    workers: int = Field(default=0, ge=0)
    """Processes that tokenise; 0 uses one a CPU core when the input is large, none when it is small."""
    prefetch: int = Field(default=8, ge=0)
    """Batches made ahead of the step."""
