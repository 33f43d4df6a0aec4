"""The root config: one section for each component, declared beside that component."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from jaxrl_llm.algos import AlgoConfig
from jaxrl_llm.algos.pretrain import PretrainConfig
from jaxrl_llm.data.config import AnyDataConfig, BytesConfig, DataConfig, PromptDataConfig, TokenizerConfig
from jaxrl_llm.evals.config import EvalConfig
from jaxrl_llm.models.compute import ComputeConfig
from jaxrl_llm.models.critic import CriticConfig
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.models.presets import PRESETS
from jaxrl_llm.models.trainable import AllConfig, TrainableConfig
from jaxrl_llm.parallel.mesh import MeshConfig
from jaxrl_llm.rollout.config import RolloutConfig
from jaxrl_llm.schema import schema
from jaxrl_llm.training.config import CheckpointConfig, LoggingConfig, TrainingConfig
from jaxrl_llm.training.optim import AdamwConfig, OptimConfig
from jaxrl_llm.training.schedules import CosineConfig, ScheduleConfig
from jaxrl_llm.types import Rollouts

# Sections whose key `preset` stands for a whole set of values.
PRESET_TABLES: Mapping[type, Mapping[str, Any]] = {LlamaConfig: PRESETS}


@schema
class Config:
    """One stage of training.  Everything below `build` receives its own section, never this."""

    workdir: str
    """The run directory: config, metrics, checkpoints and report; the same command with the same one resumes."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the initial weights, the order of the data and the samples."""
    init_from: str | None = None
    """A run, a checkpoint or a Hugging Face directory whose weights this run starts from."""
    init_optimizer: bool = False
    """Take over its optimizer state as well."""
    model: LlamaConfig = LlamaConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    tokenizer: TokenizerConfig = BytesConfig()
    data: AnyDataConfig = DataConfig()
    algo: AlgoConfig = PretrainConfig()
    trainable: TrainableConfig = AllConfig()
    critic: CriticConfig = CriticConfig()
    rollout: RolloutConfig = RolloutConfig()
    training: TrainingConfig = TrainingConfig()
    optim: OptimConfig = AdamwConfig()
    schedule: ScheduleConfig = CosineConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def length(self) -> int:
        """T: tokens in a row: of data, or of the longest prompt and its longest answer."""
        if not isinstance(self.data, PromptDataConfig):
            return self.data.length
        longest = self.rollout.max_prompt_tokens
        return self.model.context if longest is None else longest + self.rollout.max_new_tokens

    @property
    def idle(self) -> set[str]:
        """Sections that nothing of this run reads; the checks see to it that they say nothing."""
        unread = {"rollout": self.algo.consumes is not Rollouts, "critic": "value" not in self.algo.trained}
        return {name for name in unread if unread[name]}

    def model_of(self, role: str) -> LlamaConfig:
        """The shape of a role's model: all have the policy's but for a critic of its own."""
        return self.critic.model if role == "value" and self.critic.model is not None else self.model
