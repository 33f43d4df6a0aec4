"""Reward models: a score for an answer, learnt from comparisons, rankings, or answers judged one by one."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field, model_validator

from jaxrl_llm.core.answers import at_last_token, is_answer
from jaxrl_llm.core.means import mean_of
from jaxrl_llm.core.pairs import of_pairs, right
from jaxrl_llm.errors import UserError
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Algo, Answers, Head, Labelled, Mean, Model, Pairs, Params

# By how much the better answer should lead, for a rating of 0 negligibly better .. 3 significantly better (2307.09288).
MARGINS: Mapping[str, tuple[float, ...]] = {"small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}

Terms = dict[str, Mean]


@schema
class RewardConfig:
    """A scalar read at an answer's last token."""

    kind: Literal["reward"] = "reward"
    frozen: ClassVar[Mapping[str, Head]] = {}
    cached: ClassVar[bool] = False
    loss: Literal["ranking", "pointwise"] = "ranking"
    """ranking: of two or more answers to a prompt (Bradley-Terry); pointwise: of answers judged one by one."""
    margin: Literal["none", "small", "large", "column"] = "none"
    """Lead that the better answer should have: by the row's rating (small 1, 2/3, 1/3, 0; large 3, 2, 1, 0), or the
    row's own margin.  Rows without one have 0; `margin_given` logs how many have one."""
    centring: float = Field(default=0.0, ge=0.0)
    """Weight of mean((r_better + r_worse)²), which keeps scores around 0 (arXiv 2312.09244: 0.01)."""
    safety_weight: float = Field(default=0.0, ge=0.0)
    """Weight of a second head that says whether an answer is safe (arXiv 2307.09288); 0: there is no such head."""
    from_token: str | None = None
    """The score starts as the logit of this token of the vocabulary; null: as a new head."""

    @property
    def trained(self) -> Mapping[str, Head]:
        """One role, with a second head where there is a safety loss."""
        return {"reward": "scalar+safety" if self.safety_weight else "scalar"}

    @property
    def consumes(self) -> type:
        """Comparisons, or answers judged one by one."""
        return Pairs if self.loss == "ranking" else Labelled

    @model_validator(mode="after")
    def _fits(self) -> "RewardConfig":
        if self.loss == "pointwise" and (self.margin != "none" or self.centring):
            raise ValueError("margin and centring speak of pairs of answers; loss=pointwise has none: leave them out")
        return self


def build(config: RewardConfig, models: Mapping[str, Model]) -> Algo:
    """The algorithm over `models["reward"]`."""
    values = models["reward"].values

    def loss(params: Params, batch: Pairs | Labelled) -> tuple[Terms, Terms]:
        """The loss on scores r, nats, and that of the safety head: −log σ(s) of safe answers, −log σ(−s) of others.

        Each answer is run once, however many pairs it stands in.
        """
        answers = batch.answers
        read_N = {name: at_last_token(x_BT, answers) for name, x_BT in values(params["reward"], answers.tokens).items()}
        score_N = read_N["score"]
        if isinstance(batch, Pairs):
            terms, metrics = ranking(score_N, batch, config.margin, config.centring > 0)
        else:
            terms, metrics = pointwise(score_N, batch)
        metrics["score_mean"] = mean_of(score_N, is_answer(answers))
        if config.safety_weight:
            terms["safety"], metrics["safety_accuracy"] = safety(read_N["safety"], answers)
        return terms, metrics

    def scores(params: Params, batch: Pairs | Labelled) -> Array:
        """[N]: r of every slot."""
        return at_last_token(values(params["reward"], batch.answers.tokens)["score"], batch.answers)

    weights = {config.loss: 1.0, "centring": config.centring, "safety": config.safety_weight}
    return Algo(
        consumes=config.consumes,
        trained=config.trained,
        weights={name: weight for name, weight in weights.items() if weight},
        loss=loss,
        scores=scores,
        sparse=frozenset({"safety"}),
    )


def ranking(score_N: Array, batch: Pairs, margin: str, centring: bool) -> tuple[Terms, Terms]:
    """−log σ(r_w − r_l − m): Bradley-Terry (Llama 2, 2307.09288); of K answers the mean over pairs (2203.02155, eq. 1).

    Row of the data: prompt "Who wrote Faust?", answers "Goethe" > "A German" > "Nobody": three pairs of weight 1/3.
    """
    better_P, worse_P = of_pairs(score_N, batch)
    lead_P = better_P - worse_P
    margin_P, given_P = margins(batch, margin)
    terms = {"ranking": mean_of(-jax.nn.log_sigmoid(lead_P - margin_P), batch.weight_P)}
    if centring:
        terms["centring"] = mean_of(jnp.square(better_P + worse_P), batch.weight_P)
    metrics = {"accuracy": mean_of(right(lead_P), batch.weight_P), "margin": mean_of(lead_P, batch.weight_P)}
    if margin != "none":
        metrics["margin_given"] = mean_of(given_P.astype(jnp.float32), batch.weight_P)
    return terms, metrics


def margins(batch: Pairs, margin: str) -> tuple[Array, Array]:
    """[P] lead that the better answer should have, 0 where nothing is said, and [P] whether something is."""
    if margin == "none":
        return jnp.zeros_like(batch.margin_P), jnp.zeros_like(batch.margin_P, bool)
    if margin == "column":
        return batch.margin_P, batch.margin_P != 0
    given_P = batch.rating_P >= 0
    return jnp.where(given_P, jnp.asarray(MARGINS[margin])[batch.rating_P], 0.0), given_P


def pointwise(score_N: Array, batch: Labelled) -> tuple[Terms, Terms]:
    """−log σ(r) of wanted answers, −log σ(−r) of unwanted ones.

    Rows of the data: prompt "Who wrote Faust?", answer "Goethe", label 1; the same prompt, answer "Nobody", label 0.
    """
    label_N = batch.label_BA.reshape(-1)
    signed_N = jnp.where(label_N == 1, score_N, -score_N)
    terms = {"pointwise": mean_of(-jax.nn.log_sigmoid(signed_N), label_N >= 0)}
    metrics = {
        "accuracy": mean_of(right(signed_N), label_N >= 0),
        "score_wanted": mean_of(score_N, label_N == 1),
        "score_unwanted": mean_of(score_N, label_N == 0),
    }
    return terms, metrics


def safety(logit_N: Array, answers: Answers) -> tuple[Mean, Mean]:
    """The loss of the safety head and its accuracy, over the answers that are said to be safe or unsafe."""
    if answers.safe_BA is None:
        raise UserError(
            "algo.safety_weight is set, but the data does not say which answers are safe\n"
            "  mend: data with a column `safe`, or algo.safety_weight=0"
        )
    safe_N = jnp.where(is_answer(answers), answers.safe_BA.reshape(-1), -1)
    signed_N = jnp.where(safe_N == 1, logit_N, -logit_N)
    return mean_of(-jax.nn.log_sigmoid(signed_N), safe_N >= 0), mean_of(right(signed_N), safe_N >= 0)
