"""What a run begins with: weights by role from a model on disk, or random ones, with the heads that they lack."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.assemble import role_key
from jaxrl_llm.config import Config
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.models.critic import CriticConfig
from jaxrl_llm.models.llama import llama_specs
from jaxrl_llm.parallel.specs import init_params
from jaxrl_llm.types import Head, Params

if TYPE_CHECKING:
    from jaxrl_llm.saved import SavedModel


def starting_weights(
    config: Config,
    mesh: Mesh,
    initial: "SavedModel | None",
    roles: Collection[str] | None = None,
    critic: "SavedModel | None" = None,
) -> Params:
    """The whole weights that a run begins with, by trained role (or of these): those of `init_from`, or random ones.

    A reward model from a language model has a new head, or one token's column of the unembedding as its head; a critic
    begins with `critic` where there is one, and a head as its config says.

    Raises:
        UserError: `init_from` has no role that this one could begin as.
    """
    out = {}
    for role, head in config.algo.trained.items():
        if roles is not None and role not in roles:
            continue
        specs, key = llama_specs(config.model_of(role), head), role_key(config.seed, role)
        start = critic if role == "value" and critic is not None else initial
        if start is None:
            out[role] = init_params(specs, key, mesh)
        else:
            tree = start.weights(starting_role(role, head, start), mesh)
            fresh = init_params({name: specs[name] for name in specs.keys() - tree.keys()}, key, mesh)
            token = config.algo.from_token if isinstance(config.algo, RewardConfig) else None
            if "score" in fresh and token is not None:
                column = token_id(start.card.tokenizer, token)
                matrix_DV = tree["embed"].T if config.model.tie_embeddings else tree["unembed"]
                fresh["score"] = fresh["score"].at[:, 0].set(matrix_DV[:, column])
            out[role] = {name: tree[name] for name in specs.keys() & tree.keys()} | fresh
        if role == "value":
            scored = start is not None and start.card.heads[starting_role(role, head, start)] != "lm"
            out[role] |= critic_head(config.critic, specs, out[role]["score"], scored, role_key(config.seed, "head"))
    return out


def critic_head(config: CriticConfig, specs: Params, found: Array, scored: bool, key: Array) -> Params:
    """The head that a critic begins with: {"score": [D, 1]}; `scored`: `found` is one that was trained."""
    if config.head == "zero" or (config.head == "auto" and not scored):
        return {"score": jnp.zeros_like(found)}
    if config.head == "random" and scored:
        return init_params({"score": specs["score"]}, key, found.sharding.mesh)  # type: ignore[attr-defined]
    return {}


def starting_role(role: str, head: Head, initial: "SavedModel") -> str:
    """The role in which a model has what this one begins with: the same; a policy for scalar heads; for a critic first
    a critic, then a reward model."""
    heads = initial.card.heads
    wanted = (role, "reward", "policy") if role == "value" else (role, "policy")
    there = next((name for name in wanted if name in heads), "policy")
    if there not in heads or (head == "lm" and heads[there] != "lm"):
        found = ", ".join(f"{name} ({each})" for name, each in heads.items())
        raise UserError(
            f"init_from={initial.path} holds {found}; this run trains {role} ({head})\n"
            "  mend: init_from=A RUN that trained such a model"
        )
    return there


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a token by its spelling.  Raises UserError where the text is not one token."""
    ids = [tokenizer.specials[text]] if text in tokenizer.specials else tokenizer.encode(text)
    if len(ids) != 1:
        raise UserError(f"algo.from_token={text!r} is {len(ids)} tokens of this tokenizer\n  mend: name a single one")
    return ids[0]
