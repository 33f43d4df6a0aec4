"""What must fit between fields where a policy learns from its own answers, and who has no such fields."""

from collections.abc import Iterator

from jaxrl_llm.algos.ppo import PpoConfig
from jaxrl_llm.config.problems import Problem
from jaxrl_llm.config.root import Config
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.models.critic import CriticConfig
from jaxrl_llm.models.llama import LlamaConfig
from jaxrl_llm.models.lora import LoraConfig
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
    unread = config.init_from is not None and config.model == LlamaConfig()
    if (data.pretrain or config.eval.corpora) and not unread and data.pretrain_length > config.model.context:
        yield Problem(
            ("data", "pretrain_length"),
            f"{data.pretrain_length} is longer than model.context, which is {config.model.context}",
        )


def check_rollout(config: Config) -> Iterator[Problem]:
    """What rollouts and a critic need, and who has none."""
    algo = config.algo
    if "value" not in algo.trained and config.critic != CriticConfig():
        yield Problem(("critic",), f"is of algo.kind=ppo, and algo.kind={algo.kind} has none: leave the section out")
    if algo.consumes is Rollouts and isinstance(config.data, PromptDataConfig):
        yield from _sizes(config)
        yield from _rewards(config)
        yield from _distances(config)
        yield from _critic(config)
        if isinstance(config.trainable, LoraConfig) and config.trainable.dropout:
            yield Problem(
                ("trainable", "dropout"),
                f"{config.trainable.dropout:g} is not for rollouts: ratios would not begin at 1; leave it out",
            )
    elif algo.consumes is not Rollouts and config.rollout != RolloutConfig():
        yield Problem(
            ("rollout",),
            f"is of what learns from its own answers, and algo.kind={algo.kind} does not: leave the section out, or "
            "set algo.kind=ppo, grpo or rloo",
        )


def _sizes(config: Config) -> Iterator[Problem]:
    rollout, context = config.rollout, config.model.context
    unread = (
        config.init_from is not None and config.model == LlamaConfig()
    )  # not there, which is said when it is opened
    answers = rollout.prompts * rollout.n
    if answers % config.training.batch_size:
        yield Problem(
            ("training", "batch_size"),
            f"{config.training.batch_size} does not divide rollout.prompts x rollout.n, which are {answers} answers",
        )
    if unread:
        return
    if rollout.max_new_tokens >= context:
        yield Problem(
            ("rollout", "max_new_tokens"),
            f"{rollout.max_new_tokens} leave no room for a prompt: model.context is {context}",
        )
    elif config.length > context:
        yield Problem(
            ("rollout", "max_prompt_tokens"),
            f"with rollout.max_new_tokens they are {config.length} tokens, more than model.context, which is {context}",
        )


def _rewards(config: Config) -> Iterator[Problem]:
    """Somebody must rate the answers."""
    parts, data = config.rollout.rewards.parts, config.data
    assert isinstance(data, PromptDataConfig)
    if not any(part.kind != "length" for part in parts.values()):
        yield Problem(
            ("rollout", "rewards", "parts"),
            "nothing rates the answers: set rollout.rewards.parts.grade.kind=task, or a part of kind=model with the "
            "path of a reward model",
        )
    for name, part in parts.items():
        if part.kind == "task" and data.task is None:
            yield Problem(
                ("rollout", "rewards", "parts", name),
                "is the grade of a task, and the prompts are of none: set data.task.kind=arithmetic, say, in place of "
                "data.path; or kind=model for a reward model",
            )


def _critic(config: Config) -> Iterator[Problem]:
    """It reads the policy's tokens."""
    model, critic = config.model, config.critic.model
    if critic is None:
        return
    for key in ("vocab_size", "context"):
        ours, theirs = getattr(critic, key), getattr(model, key) if key == "vocab_size" else config.length
        if ours < theirs:
            yield Problem(
                ("critic", "model", key),
                f"{ours} is too small: it reads the policy's tokens, for which it takes {theirs}",
            )


def _distances(config: Config) -> Iterator[Problem]:
    """What is measured from something needs that."""
    rollout, algo = config.rollout, config.algo
    if "value" not in algo.trained and rollout.n < 2:
        yield Problem(
            ("rollout", "n"),
            f"{rollout.n}: algo.kind={algo.kind} measures an answer by the others to its prompt, and there is none; "
            "set 4, say",
        )
    if rollout.kl.target is not None and rollout.kl.coef == 0:
        yield Problem(("rollout", "kl", "coef"), "0 stays 0, whatever rollout.kl.target is: set 0.05, say")
    if rollout.kl.target is not None and not algo.frozen:
        yield Problem(
            ("rollout", "kl", "target"),
            f"{rollout.kl.target:g}, but algo.kl=none: there is no reference to be that far from; set algo.kl=reward",
        )
    updates = rollout.epochs * (rollout.prompts * rollout.n // config.training.batch_size)
    if isinstance(algo, PpoConfig) and algo.surrogate == "kl_penalty" and updates == 1:
        yield Problem(
            ("algo", "surrogate"),
            "kl_penalty with one update a round: the policy is still the one that wrote, so the penalty is 0 and its "
            "coefficient halves each round; set more rollout.epochs, or a smaller training.batch_size",
        )
