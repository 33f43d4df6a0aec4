"""What must fit between fields where a policy learns from its own answers, and who has no such fields."""

from collections.abc import Iterator

from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.config.problems import Problem
from jaxrl_llm.config.root import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.models.critic import CriticConfig
from jaxrl_llm.rollout.config import RolloutConfig
from jaxrl_llm.types import Rollouts


def check_prompts(config: Config) -> Iterator[Problem]:
    """Of `data.kind=prompts`."""
    data, blank = config.data, PromptDataConfig()
    assert isinstance(data, PromptDataConfig)
    if data.task is None and data.path is None and config.training.steps:
        yield Problem(("data",), "there are no prompts: set data.task.kind=arithmetic, say, or data.path=FILE")
    if data.task is not None and data.path is not None:
        yield Problem(("data", "path"), "data.task asks its own problems: set one of them")
    for key in ("problems", "problems_seed"):
        if data.task is None and getattr(data, key) != getattr(blank, key):
            yield Problem(("data", key), "is of a task, and data.task is not set")
    if data.task is not None and data.safety:
        yield Problem(("data", "safety"), "is of data.path; no task is about safety")
    weight = config.algo.ptx_weight if isinstance(config.algo, PpoConfig) else 0.0
    if weight and data.pretrain is None:
        yield Problem(
            ("algo", "ptx_weight"), f"{weight:g} of the loss of text, and there is none: set data.pretrain.path"
        )
    if data.pretrain is not None and not weight:
        yield Problem(("data", "pretrain"), "is read by algo.kind=ppo with algo.ptx_weight alone, which is 0")
    if (data.pretrain or config.eval.corpora) and data.pretrain_length > config.model.context:
        yield Problem(
            ("data", "pretrain_length"),
            f"{data.pretrain_length} is longer than model.context, which is {config.model.context}",
        )


def check_rollout(config: Config) -> Iterator[Problem]:
    """What rollouts and a critic need, and who has none."""
    algo, rollout, training = config.algo, config.rollout, config.training
    if algo.consumes is not Rollouts:
        if rollout != RolloutConfig():
            yield Problem(("rollout",), f"is of what learns from its own answers, and algo.kind={algo.kind} does not")
    else:
        answers = rollout.prompts * rollout.n
        if answers % training.batch_size:
            yield Problem(
                ("training", "batch_size"),
                f"{training.batch_size} does not divide rollout.prompts x rollout.n, which are {answers} answers",
            )
        if isinstance(config.data, PromptDataConfig) and config.length > config.model.context:
            yield Problem(
                ("rollout", "max_prompt_tokens"),
                f"{config.length} tokens with rollout.max_new_tokens are more than model.context, "
                f"which is {config.model.context}",
            )
        elif rollout.max_new_tokens >= config.model.context:
            yield Problem(
                ("rollout", "max_new_tokens"),
                f"{rollout.max_new_tokens} leave no room for a prompt: model.context is {config.model.context}",
            )
    if "value" not in algo.trained and config.critic != CriticConfig():
        yield Problem(("critic",), f"is of algo.kind=ppo, and algo.kind={algo.kind} has none")
