"""Config of evaluation during training."""

from pydantic import Field

from jaxrl_llm.data.config import CorpusConfig, ExamplesConfig
from jaxrl_llm.schema import schema
from jaxrl_llm.tasks import TaskConfig


@schema
class TaskEvalConfig:
    """Problems of a task's test split, which the policy answers greedily."""

    task: TaskConfig
    """Which task."""
    problems: int = Field(default=256, ge=1)
    """How many."""
    seed: int = Field(default=0, ge=0)
    """Which of them."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, its end token included."""
    slots: int = Field(default=64, ge=1)
    """Answers that are written at once."""


@schema
class EvalConfig:
    """Held-out data: the `holdout` share of each training corpus, and the corpora named here."""

    every: int = Field(default=200, ge=0)
    """Steps between evaluations; 0 evaluates at the end only.  If not 0, the first comes before the first step."""
    batch_size: int | None = Field(default=None, ge=1)
    """Sequences at a time; null is those of a micro-batch: training.batch_size / training.micro_batches."""
    max_rows: int | None = Field(default=None, ge=1)
    """At most this many rows of each corpus; null takes all."""
    corpora: dict[str, CorpusConfig] = Field(default_factory=dict)
    """More text by name: other domains, whose loss shows what a policy forgets."""
    examples: dict[str, ExamplesConfig] = Field(default_factory=dict)
    """The same of conversations or preferences, whichever are trained on: what has a holdout is asked on that."""
    tasks: dict[str, TaskEvalConfig] = Field(default_factory=dict)
    """Tasks by name, of which the policy's accuracy is measured."""
    scale_prompts: int = Field(default=256, ge=2)
    """Prompts whose best answers say how a reward model's scores lie: the bias and deviation stored with it."""
