"""What rates answers, as `rollout.rewards.Scorer`: the grader of a task, or a reward model on the policy's mesh."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.assemble import check_divides
from jaxrl_llm.data.chat import Template, find_template
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.score import Text, fit, reward_scorer, row_lengths, text_scorer, tokenize_answer
from jaxrl_llm.evals.shared_prompts import shared_scorer
from jaxrl_llm.models.compute import ComputeConfig, compute_dtype
from jaxrl_llm.models.llama import cast
from jaxrl_llm.parallel.offload import to_host
from jaxrl_llm.parallel.specs import is_spec
from jaxrl_llm.rollout.config import ModelRewardConfig
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.rollout.rewards import Scorer, scaled
from jaxrl_llm.saved import SavedModel, find_model, open_model
from jaxrl_llm.tasks import Task
from jaxrl_llm.tasks.task import grade_all
from jaxrl_llm.types import Model, Params, ScoreScale

ROLE = "reward"  # in which a checkpoint has it; a run of PPO has a scalar head too, its critic


def task_scorer(task: Task) -> Scorer:
    """The grades of a task.  It raises UserError where the grader fails, or a prompt is no problem of a task."""

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        examples = [prompt.example for prompt in prompts if prompt.example is not None]
        if len(examples) < len(prompts):
            origin = next(prompt.origin for prompt in prompts if prompt.example is None)
            raise UserError(
                f"{origin}: the prompt is no problem of a task, so the grader of {task.name} has nothing to compare "
                "its answer with\n  mend: data.task, or a reward model in place of the grader"
            )
        return grade_all(task, texts, examples)

    return score


def model_scorer(
    part: ModelRewardConfig,
    mesh: Mesh,
    *,
    batch_size: int,
    policy_tokenizer: Tokenizer,
    first: Prompt | None = None,
    longest: int | None = None,
    share_prompts: bool = False,
    offload: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> Scorer:
    """The scores of a reward model: of prompt and answer in its own tokens, read at the last one.

    Its weights lie on the mesh in the dtype that it computes in.  It compiles a few lengths of rows once; the bits of a
    score depend on the texts that are asked for with it, and on nothing before.

    Args:
        part: which model, its template and scale.
        mesh: the policy's.
        batch_size: texts at a time.
        policy_tokenizer: what wrote the answers.
        first: a prompt that its template is tried on at once, before anything is sampled.
        longest: the policy's longest prompt and answer together, in tokens: a length of rows that is kept for them.
        share_prompts: read a prompt once with all its answers, which is faster where there are several.
        offload: its weights wait on the host.
        warn: told when texts had to be cut to the model's context, at the first one and each time there are twice as
            many.

    Raises:
        UserError: there is no such reward model, it has another tokenizer and is not to re-tokenise, the scale is not
            stored with it, its template refuses the prompt, or it does not divide over the mesh.
    """
    saved = find_model(part.path)
    check_reward_model(part, saved, policy_tokenizer)
    check_divides(saved.config.model, mesh)
    opened = open_model(part.path, mesh, head="scalar")
    tokenizer, scale = opened.tokenizer, opened.card.score or ScoreScale()
    template = find_template(tokenizer, part.template)
    if first is not None:
        read(first, "", tokenizer, template)
    weights = in_compute_dtype(opened.model, opened.params, opened.config.compute)
    raw = scorer_of(
        opened.model,
        to_host(opened.model.specs, weights, mesh) if offload else weights,
        mesh,
        lambda prompt, text: read(prompt, text, tokenizer, template),
        batch_size=batch_size,
        context=opened.config.model.context,
        bos_id=tokenizer.bos_id,
        longest=longest,
        share_prompts=share_prompts and opened.config.model.sliding_window is None,
        name=f"the reward model {part.path}",
        warn=warn,
    )
    return lambda prompts, texts: scaled(raw(prompts, texts), scale, part.scale)


def scorer_of(
    model: Model,
    weights: Params,
    mesh: Mesh,
    read: Callable[[Prompt, str], Text],
    *,
    batch_size: int,
    context: int,
    bos_id: int,
    longest: int | None,
    name: str,
    warn: Callable[[str], None],
    share_prompts: bool = False,
) -> Scorer:
    """The raw scores that a model with a scalar head gives to what `read` makes of a prompt and its answer.

    Args:
        model: with a scalar head.
        weights: its, see `in_compute_dtype`.
        mesh: that they lie on.
        read: in the model's own tokens.
        batch_size: texts at a time.
        context: the longest text that it reads; see `evals.score.fit`.
        bos_id: what a text keeps in front when it is cut.
        longest: see `model_scorer`.
        name: what warnings and errors call it.
        warn: see `model_scorer`.
        share_prompts: likewise; not with a sliding window.
    """
    usual = () if longest is None else (-(-(longest + 1) // 64) * 64,)  # an answer that was cut off gets an end token
    scorer = (
        shared_scorer(model, mesh, batch_size)
        if share_prompts
        else text_scorer(reward_scorer(model), mesh, batch_size, row_lengths(context, *usual))
    )
    n_seen = n_cut = 0

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        nonlocal n_seen, n_cut
        whole = [read(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        fitted, before = fit(whole, context, bos_id), n_cut
        n_seen += len(whole)
        n_cut += sum(len(text.ids) > context for text in whole)
        if n_cut.bit_length() > before.bit_length():
            warn(
                f"{n_cut:,} of {n_seen:,} answers with their prompts were longer than the {context:,} tokens that "
                f"{name} reads, and were cut: the prompt at its start, then the answer at its end"
            )
        try:
            return scorer(weights, fitted)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error

    return score


def check_reward_model(part: ModelRewardConfig, saved: SavedModel, policy_tokenizer: Tokenizer) -> None:
    """A UserError where a model on disk cannot give what the config asks of it."""
    if ROLE not in saved.card.heads:
        held = " and a ".join("language model" if h == "lm" else "critic" for h in saved.card.heads.values())
        raise UserError(
            f"{part.path}: holds a {held}, and a reward model is wanted\n  mend: the path of a run of algo.kind=reward"
        )
    tokenizer = saved.card.tokenizer
    if tokenizer.fingerprint != policy_tokenizer.fingerprint and not part.retokenise:
        raise UserError(
            f"{part.path}: this reward model has another tokenizer ({tokenizer.kind}, {tokenizer.vocab_size:,} ids) "
            f"than the policy ({policy_tokenizer.kind}, {policy_tokenizer.vocab_size:,} ids)\n"
            "  mend: retokenise=true beside its path lets it read the text in its own tokens; or another reward model"
        )
    if part.scale != "raw" and saved.card.score is None:
        raise UserError(
            f"{part.path}: scale={part.scale}, and how the scores of this reward model lie is not stored with it\n"
            "  mend: scale=raw, or a reward model that was trained here"
        )


def in_compute_dtype(model: Model, params: Params, compute: ComputeConfig) -> Params:
    """The weights as the model casts them at every use; kept so, they take less memory and the scores are the same."""
    dtype = compute_dtype(compute)
    return jax.tree.map(lambda spec, w: cast(spec, w, dtype), model.specs, params, is_leaf=is_spec)


def read(prompt: Prompt, answer: str, tokenizer: Tokenizer, template: Template) -> Text:
    """The tokens of a prompt with its answer: a conversation by the template, or one document.

    Raises:
        UserError: the template refuses the conversation; with the prompt's origin.
    """
    if not isinstance(prompt.said, str):
        try:
            return tokenize_answer(prompt.said, ({"role": "assistant", "content": answer},), tokenizer, template)
        except UserError as error:
            raise UserError(f"{prompt.origin}, answered {answer[:80]!r}: {error}") from error
    ids = np.asarray(tokenizer.encode_document(prompt.said + answer), np.int32)
    n_prompt = min(1 + len(tokenizer.encode(prompt.said)), len(ids) - 1)
    return Text(ids, np.arange(len(ids)) >= n_prompt, n_prompt)
