"""Config of rollouts: how many answers to what, what they are worth, and how far the policy may go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxrl_llm.schema import schema


@schema
class ModelRewardConfig:
    """The score of a reward model, which may be of another size than the policy and have another tokenizer."""

    kind: Literal["model"] = "model"
    path: str
    """A run of `algo.kind: reward`, one of its checkpoints, or what was exported from it."""
    template: str | None = None
    """A bundled chat template or a file of Jinja, in which it reads conversations; null: its own."""
    retokenise: bool = False
    """It may have another tokenizer than the policy, and reads the text of the answers in tokens of its own."""
    scale: Literal["raw", "centred", "standardised"] = "raw"
    """centred: reference answers score 0 on average, by the bias that is stored with it; standardised: and deviate by
    1 from it."""
    weight: float = 1.0
    """Its share of the sum."""


@schema
class TaskRewardConfig:
    """The grade of the task that the prompts are of: 1 for a right answer, 0 for a wrong one."""

    kind: Literal["task"] = "task"
    weight: float = 1.0
    """Its share of the sum."""


@schema
class LengthPenaltyConfig:
    """−1 for each token of an answer beyond the free ones."""

    kind: Literal["length"] = "length"
    free: int = Field(default=0, ge=0)
    """Tokens that cost nothing."""
    weight: float = Field(default=0.001, gt=0.0)
    """What a token costs."""


RewardPartConfig = Annotated[ModelRewardConfig | TaskRewardConfig | LengthPenaltyConfig, Field(discriminator="kind")]


@schema
class RewardsConfig:
    """What an answer is worth.  The rules apply in the order of these keys; see `rewards.compose`."""

    parts: dict[str, RewardPartConfig] = Field(default_factory=dict)
    """Reward models, graders and penalties, by names of your own."""
    combine: Literal["sum", "safety_first"] = "sum"
    """sum: weight x value of each part; safety_first: of two reward models named `helpfulness` and `safety` one counts
    (Llama 2, arXiv 2307.09288): safety where the prompt is about it or the score for it is low, else helpfulness."""
    safety_threshold: float = Field(default=0.15, gt=0.0, lt=1.0)
    """What is low: a sigmoid of the safety score below this."""
    normalise: Literal["none", "whiten", "running"] = "none"
    """To mean 0 and variance 1: over the answers of a round; or over all answers so far."""
    keep_mean: bool = False
    """Normalisation changes the variance only."""
    clip: float | None = Field(default=None, gt=0.0)
    """What is left is clipped to ± this; penalties for length and a missing end come after it."""
    missing_end: Literal["none", "replace", "add"] = "none"
    """An answer that was cut off has missing_end_value in place of its reward, or besides it."""
    missing_end_value: float = -1.0
    """See missing_end."""

    @model_validator(mode="after")
    def _fits(self) -> "RewardsConfig":
        scored = {name: part for name, part in self.parts.items() if part.kind != "length"}
        if self.combine == "safety_first":
            if scored.keys() != {"helpfulness", "safety"}:
                raise ValueError(
                    "combine=safety_first needs the parts helpfulness and safety, and besides them penalties alone; "
                    f"these are {', '.join(scored) or 'none'}"
                )
            safety = scored["safety"]
            if not isinstance(safety, ModelRewardConfig) or safety.scale != "raw" or safety.weight <= 0:
                raise ValueError(
                    "combine=safety_first compares the raw score of parts.safety with a threshold: "
                    "it must be of kind=model, scale=raw and a positive weight"
                )
        return self


@schema
class KlConfig:
    """How much it costs to leave the reference."""

    coef: float = Field(default=0.05, ge=0.0)
    """β: of KL(policy ‖ reference), in the reward or the loss as the algorithm has it; where it adapts, the first."""
    target: float | None = Field(default=None, gt=0.0)
    """Nats an answer that β is steered to (Ziegler et al., arXiv 1909.08593: 6); null: β stays as it is."""
    horizon: int = Field(default=10_000, ge=1)
    """Answers in which β can change by some 20 %, at most."""


@schema
class PenaltyConfig:
    """How much it costs to leave the policy that wrote: of PPO's surrogate=kl_penalty alone."""

    coef: float = Field(default=1.0, gt=0.0)
    """The first β; it doubles above 1.5 x target and halves below target/1.5."""
    target: float = Field(default=0.01, gt=0.0)
    """Nats a token, the mean of approx_kl_k3 over the updates of a round's last epoch."""


@schema
class RolloutConfig:
    """A round: prompts are drawn, the policy answers, answers are rated, and several updates learn from them."""

    prompts: int = Field(default=64, ge=1)
    """Prompts a round."""
    n: int = Field(default=1, ge=1)
    """Answers to each prompt."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, its end token included."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt; null: what the model's context leaves beside the longest answer."""
    overlong: Literal["stop", "drop"] = "stop"
    """What is done at a longer prompt."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides the logits: when sampling, in training and of the reference alike."""
    slots: int = Field(default=64, ge=1)
    """Answers that are written at once."""
    epochs: int = Field(default=1, ge=1)
    """How often a round's answers are learnt from, training.batch_size of them an update."""
    shuffle: bool = True
    """Mini-batches of training.batch_size answers are drawn anew each epoch; else cut as they stand."""
    rewards: RewardsConfig = RewardsConfig()
    kl: KlConfig = KlConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    stop_kl: float | None = Field(default=None, gt=0.0)
    """A round ends early when approx_kl_k3 of an update is above this: nats a token, of RLOO an answer."""
    samples_every: int = Field(default=10, ge=1)
    """Rounds between samples with their rewards."""
    samples: int = Field(default=8, ge=0)
    """How many; the answers to one prompt stand together."""
