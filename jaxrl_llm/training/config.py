"""Config of the loop and of what hangs on it."""

from pydantic import Field

from jaxrl_llm.schema import schema


@schema
class TrainingConfig:
    """The loop."""

    steps: int = Field(default=1000, ge=0, lt=2**31)  # 0: an imported model, which needs no data
    """Updates."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences a step, over all devices and micro-batches: rows of text, prompts of preferences, answers of
    rollouts."""
    micro_batches: int = Field(default=1, ge=1)
    """A step's batch is cut into this many pieces, one after the other: less memory, the same update."""
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Decay a step of a running average of the trained weights (a critic's aside), which is then what is evaluated,
    exported and started from (InstructGPT, arXiv 2203.02155: .992); null: the weights themselves."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of the console and of metrics.jsonl."""


@schema
class CheckpointConfig:
    """What is kept in WORKDIR/checkpoints.  The last step is always saved."""

    every: int = Field(default=500, ge=0)
    """Steps between checkpoints; 0 saves at the end only."""
    keep_last: int = Field(default=2, ge=1)
    """The newest that are kept."""
    keep_every: int | None = Field(default=None, ge=1)
    """Besides those, every step divisible by this is kept for ever; null keeps none."""


@schema
class LoggingConfig:
    """Besides the console and metrics.jsonl, which are always written."""

    tensorboard: bool = True
    """TensorBoard events in WORKDIR/tensorboard."""
    wandb: str | None = None
    """A Weights & Biases project; needs the extra jaxrl-llm[wandb]."""
    quiet: bool = False
    """Print nothing but errors."""
