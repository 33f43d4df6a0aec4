"""Config of tokenizers and corpora."""

from typing import Annotated, Literal

from pydantic import Field

from jaxrl_llm.schema import schema
from jaxrl_llm.tasks import TaskConfig


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
    """Text: one corpus, or a mixture of named ones, packed into rows."""

    kind: Literal["text"] = "text"
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


ExampleFormat = Literal[
    "auto", "messages", "sharegpt", "alpaca", "completion", "pairs", "hh", "ranked", "scored", "labelled"
]


@schema
class ExamplesConfig:
    """Where conversations or judged answers come from.  `data.row_formats` lists the row formats and their columns."""

    path: str | tuple[str, ...]
    """A file (.jsonl, .json, .parquet, .array_record; the first two also .gz), a directory, a glob, a list of these,
    or `tfds:NAME[/CONFIG][:VERSION]`."""
    format: ExampleFormat = "auto"
    """How a row is written; auto recognises it from the columns of the first row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name of a column -> the file's, where they differ: {prompt: question, chosen: good}."""
    split: str = "train"
    """The split of a TFDS data set."""
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Last share of each file's rows, kept for evaluation."""
    holdout_rows: int | None = Field(default=None, ge=1)
    """The same as a number of rows."""
    safety: bool = False
    """All its prompts are about safety; a row's own column `safety` says more."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of the examples in a mixture, relative to the other weights."""


@schema
class _ExampleData:
    """What data of conversations and of judged answers have in common."""

    # Described in Field, which subclasses inherit with their JSON schema.
    kind: str
    path: str | tuple[str, ...] | None = Field(
        default=None, description="Short for a single corpus: see ExamplesConfig; so are the six keys after it."
    )
    format: ExampleFormat = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    split: str = "train"
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    holdout_rows: int | None = Field(default=None, ge=1)
    safety: bool = False
    mix: dict[str, ExamplesConfig] = Field(
        default_factory=dict, description="Named corpora, sampled example by example with their weights."
    )
    template: str | None = Field(
        default=None,
        description="A bundled chat template or a file of Jinja; null: the model's own, else the one that fits.",
    )
    length: int = Field(default=1024, ge=2, description="T: tokens in a row, which holds several short examples.")
    max_length: int | None = Field(
        default=None, ge=2, description="Longest prompt + answer in tokens; null is `length`."
    )
    overlong: Literal["truncate", "drop"] = Field(
        default="truncate",
        description="What is done with longer ones: cut the prompt at its start (alike for all its answers), then the "
        "answers at their ends; or leave them out.",
    )
    max_dropped: float = Field(
        default=0.01, ge=0.0, le=1.0, description="Stop where a larger share has nothing left to train on after that."
    )
    invalid: Literal["stop", "skip"] = Field(
        default="stop", description="At a row of the wrong form; skip writes it to WORKDIR/quarantine.jsonl, counted."
    )
    max_invalid: float = Field(default=0.01, ge=0.0, le=1.0, description="Largest share of such rows to skip.")
    shuffle: bool = Field(default=True, description="Global shuffle, another order each epoch.")
    cache_dir: str | None = Field(
        default=None, description="Where tokenised examples are kept; null is $XDG_CACHE_HOME/jaxrl_llm."
    )
    workers: int = Field(
        default=0, ge=0, description="Processes that tokenise; 0 uses one a CPU core when the input is large."
    )
    prefetch: int = Field(default=8, ge=0, description="Batches made ahead of the step.")


@schema
class ChatDataConfig(_ExampleData):
    """Conversations, of which the assistant's turns are trained on."""

    kind: Literal["chat"] = "chat"
    packing: Literal["first_fit", "none"] = "first_fit"
    """first_fit puts several conversations into a row, which do not see each other; none gives each its own."""
    train_on: Literal["all", "last"] = "all"
    """Which of the assistant's turns."""
    gatt: bool = False
    """Ghost attention (arXiv 2307.09288): the system message, which was before every user turn when the answers were
    sampled, is kept in the first user turn only, and earlier answers have no loss."""


@schema
class PreferenceDataConfig(_ExampleData):
    """Comparisons of answers, or answers judged one by one."""

    kind: Literal["preferences"] = "preferences"
    share_prompt: bool = True
    """The prompt of several answers is computed once; else each has its own copy of it."""


@schema
class PromptDataConfig:
    """What a policy is asked, whose answers it learns from: the problems of a task, or the prompts of a file."""

    kind: Literal["prompts"] = "prompts"
    task: TaskConfig | None = None
    """Its problems of the train split, each as what a user says."""
    problems: int = Field(default=10_000, ge=1)
    """How many of the task's."""
    problems_seed: int = Field(default=0, ge=0)
    """Which of the task's."""
    path: str | None = None
    """Prompts in place of a task: a line each, or rows {prompt}, {messages}, {instruction} (.jsonl, .parquet, ...)."""
    safety: bool = False
    """All of the file's prompts are about safety: see rollout.rewards.combine."""
    template: str | None = None
    """A bundled chat template or a file of Jinja; null: the model's own, else the one that fits."""
    pretrain: CorpusConfig | None = None
    """Text whose loss is added to PPO's (algo.ptx_weight)."""
    pretrain_length: int = Field(default=512, ge=2)
    """Tokens in a row of that text, and of eval.corpora."""
    cache_dir: str | None = None
    """Where text is tokenised to; null is $XDG_CACHE_HOME/jaxrl_llm."""
    workers: int = Field(default=0, ge=0)
    """Processes that tokenise it; 0 uses one a CPU core when the input is large."""


StoredDataConfig = DataConfig | ChatDataConfig | PreferenceDataConfig  # of which stores are built
AnyDataConfig = Annotated[StoredDataConfig | PromptDataConfig, Field(discriminator="kind")]
