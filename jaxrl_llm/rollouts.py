"""From a config to the source of rollouts: who is asked what, who writes, who rates."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.begin import Begin
from jaxrl_llm.config import Config
from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.chat import Template, chat_stop_ids, tokenize_prompt
from jaxrl_llm.data.config import PromptDataConfig
from jaxrl_llm.data.corpora import text_batches
from jaxrl_llm.data.prompts import ask, conversations_alone, read_prompt_rows, written
from jaxrl_llm.data.rows import PackedRows
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.distributed import main_first
from jaxrl_llm.rollout.config import ModelRewardConfig, RewardsConfig, TaskRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer
from jaxrl_llm.rollout.sampler import Sampler
from jaxrl_llm.rollout.sampling import SamplingConfig
from jaxrl_llm.rollout.source import RolloutSource
from jaxrl_llm.saved import find_model
from jaxrl_llm.scorers import model_scorer, task_scorer
from jaxrl_llm.tasks import build_task
from jaxrl_llm.types import Tokens


def open_rollouts(config: Config, parts: Assembly, start: Begin) -> RolloutSource:
    """The source of a run's batches.

    Raises:
        UserError: of prompts, reward models and settings that are not there or do not fit.
    """
    data = config.data
    assert isinstance(data, PromptDataConfig)
    assert start.template is not None, "of prompts there is one"
    tokenizer, prompts = start.tokenizer, open_prompts(data, start.tokenizer, start.template)
    said = prompts[0].said  # all are conversations, or all text
    stops = tokenizer.stop_ids if isinstance(said, str) else chat_stop_ids(tokenizer, start.template)
    # A reward model may warn only while the source asks it, so that the source is there by then.
    longest = max(len(prompt.ids) for prompt in prompts) + config.rollout.max_new_tokens
    source = make_source(
        config,
        parts,
        prompts,
        stop_ids=stops,
        to_text=lambda ids: written(said, ids, tokenizer, stops),
        scorers=open_scorers(config, parts, tokenizer, prompts[0], longest, lambda text: source.warn(text)),
        pretraining=open_pretraining(config, parts, tokenizer),
        judges=[find_model(part.path).fingerprint for part in reward_models(config.rollout.rewards).values()],
    )
    return source


def make_source(
    config: Config,
    parts: Assembly,
    prompts: Sequence[Prompt],
    *,
    stop_ids: frozenset[int],
    to_text: Callable[[Sequence[int]], str],
    scorers: Mapping[str, Scorer],
    pretraining: tuple[Callable[[int], Tokens] | None, str] = (None, ""),
    judges: Sequence[str] = (),
) -> RolloutSource:
    """The source from prompts and those who rate the answers: `bench` brings its own of both.

    `judges` are the fingerprints of reward models: with others a run must not go on.
    """
    rollout, training = config.rollout, config.training
    context = config.model.context
    sampler = Sampler(
        parts.models["policy"],
        parts.mesh,
        SamplingConfig(temperature=rollout.temperature),
        stop_ids=sorted(stop_ids),
        context=context,
        slots=min(rollout.slots, rollout.prompts * rollout.n),
    )
    return RolloutSource(
        rollout,
        prompts,
        sampler=sampler,
        policy_weights=lambda state: parts.whole(state, "policy"),
        to_text=to_text,
        scorers=scorers,
        prepare=parts.prepare,
        batch_size=training.batch_size,
        micro_batches=training.micro_batches,
        sharding=parts.batch_sharding,
        context=context,
        seed=config.seed,
        kl_penalty=parts.algo.penalised,
        pretrain=pretraining[0],
        order=" ".join((pretraining[1], *judges)),
    )


def open_prompts(data: PromptDataConfig, tokenizer: Tokenizer, template: Template) -> list[Prompt]:
    """All prompts, as the policy reads them.

    Raises:
        UserError: the file or the task has none, or the template refuses one; with its origin.
    """
    if data.task is not None:
        examples = build_task(data.task).examples("train", data.problems, data.problems_seed)
        return [
            Prompt(tuple(tokenize_prompt(tokenizer, template, each.prompt)), each.prompt, each.origin, example=each)
            for each in examples
        ]
    rows = read_prompt_rows(Path(str(data.path)))
    conversations_alone([row.prompt for row in rows])
    found = []
    for row in rows:
        try:
            ids = ask([row.prompt], tokenizer, template).ids[0] if row.prompt else []
        except UserError as error:
            raise UserError(f"{row.origin}: {error}") from error
        found.append(Prompt(tuple(ids), row.prompt, row.origin, data.safety or row.safety))
    return found


def open_scorers(
    config: Config,
    parts: Assembly,
    tokenizer: Tokenizer,
    first: Prompt,
    longest: int,
    warn: Callable[[str], None],
) -> dict[str, Scorer]:
    """Who rates the answers, by the name of the reward's part; `first` is one of the prompts, `longest` as scored."""
    found: dict[str, Scorer] = {}
    size = config.training.batch_size // config.training.micro_batches
    for name, part in config.rollout.rewards.parts.items():
        if isinstance(part, ModelRewardConfig):
            try:
                found[name] = model_scorer(
                    part,
                    parts.mesh,
                    batch_size=size,
                    policy_tokenizer=tokenizer,
                    first=first,
                    longest=longest,
                    offload=config.compute.offload == "frozen",
                    warn=warn,
                )
            except UserError as error:
                raise UserError(f"rollout.rewards.parts.{name}: {error}") from error
        elif isinstance(part, TaskRewardConfig):
            assert isinstance(config.data, PromptDataConfig)
            assert config.data.task is not None, "the checks of the config have looked"
            found[name] = task_scorer(build_task(config.data.task))
    return found


def reward_models(rewards: RewardsConfig) -> dict[str, ModelRewardConfig]:
    """The parts that are reward models."""
    return {name: part for name, part in rewards.parts.items() if isinstance(part, ModelRewardConfig)}


def open_pretraining(
    config: Config, parts: Assembly, tokenizer: Tokenizer
) -> tuple[Callable[[int], Tokens] | None, str]:
    """Batches of text for PPO-ptx, as many rows an update as answers; and what decides them, in a word."""
    data, training = config.data, config.training
    if not isinstance(data, PromptDataConfig) or data.pretrain is None:
        return None, ""
    build = functools.partial(build_store, data.pretrain, "train", tokenizer, data.cache_dir, data.workers)
    # The rows too, whose packing index is then there.
    store = main_first(lambda: PackedRows(build(progress=not config.logging.quiet), data.pretrain_length).store)
    make = text_batches(
        store,
        data.pretrain_length,
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batches=training.micro_batches,
        sharding=parts.batch_sharding,
    )
    return make, f"{store.fingerprint} {data.pretrain_length}"
