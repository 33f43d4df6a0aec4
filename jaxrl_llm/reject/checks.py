"""What can be known before the work: whether prompts, models and reward models fit each other."""

from collections.abc import Mapping, Sequence

from jaxrl_llm.data.chat import find_template
from jaxrl_llm.data.prompts import Prompt as Said
from jaxrl_llm.data.prompts import conversations_alone
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.parallel.specs import count_params
from jaxrl_llm.reject.config import RejectConfig
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.saved import SavedModel, find_model
from jaxrl_llm.scorers import check_reward_model, read


def check_prompts(config: RejectConfig, prompts: Sequence[Said]) -> None:
    """A UserError where prompts, asked or of candidates, are partly text, or text where conversations are needed."""
    if conversations_alone(prompts):
        return
    for key, wanted, why in (
        ("pairs.kind=none", config.pairs.kind != "none", "reward models and DPO compare answers in conversations"),
        ("no self_play", config.self_play is not None, "self_play makes dialogues"),
    ):
        if wanted:
            raise UserError(
                f"{why}, and the prompts are text to go on with: {prompts[0]!r:.60}\n"
                f"  mend: prompts.chat=true, if they are what a user says; or {key}"
            )


def check_models(config: RejectConfig, first: Prompt) -> dict[str, SavedModel]:
    """The models that answer, found and not yet read.

    Args:
        config: which.
        first: a prompt that the templates of reward models are tried on.

    Raises:
        UserError: one is not there or is none that writes; all have one rank where that tells better from worse; a
            reward model is none, has another tokenizer than a model that answers and is not to re-tokenise, or its
            template refuses the prompt.
    """
    found = {name: find_writer(f"models.{name}", model.path) for name, model in config.models.items()}
    if config.self_play is not None:
        find_writer("self_play.user", config.self_play.user.path)
    if config.pairs.kind == "sources" and len({*ranks_of(config, found).values()}) == 1:
        raise UserError(
            "pairs.kind=sources prefers the answers of larger models, and of those with more shots, and all are alike\n"
            "  mend: other models or shots, or say how they rank: models.NAME.rank=1 is the best"
        )
    for name, part in config.rewards.parts.items():
        if isinstance(part, ModelRewardConfig):
            try:
                judge = find_model(part.path)
                for writer in [*found.values()] or [judge]:
                    check_reward_model(part, judge, writer.card.tokenizer)
                tokenizer = judge.card.tokenizer
                read(first, "", tokenizer, find_template(tokenizer, part.template))
            except UserError as error:
                raise UserError(f"rewards.parts.{name}: {error}") from error
    return found


def find_writer(key: str, path: str) -> SavedModel:
    """A model that writes.  Raises UserError: it is not there, or a reward model; says for which key."""
    try:
        saved = find_model(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if "policy" not in saved.card.heads:
        raise UserError(
            f"{key}: {saved.path} holds a reward model, which does not write\n  mend: a language model, or as "
            "rewards.parts.NAME.path it rates what others write"
        )
    return saved


def ranks_of(config: RejectConfig, models: Mapping[str, SavedModel]) -> dict[str, int]:
    """The place of each model, 0 the best: as the config says, else by parameters, then by shots; equals share it."""

    def quality(name: str) -> tuple[int, ...]:
        model = config.models[name]
        if model.rank is not None:
            return (-model.rank,)
        return count_params(llama_specs(models[name].config.model, "lm")), model.shots

    order = sorted({quality(name) for name in models}, reverse=True)
    return {name: order.index(quality(name)) for name in models}
