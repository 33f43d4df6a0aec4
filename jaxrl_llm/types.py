"""The nouns.  Every array field says its shape and meaning; everything else in the house is a verb on these.

Legend: B batch, T time, S cache or key positions, D model width, F MLP width, H query heads, K key/value heads,
C channels per head, L layers, V vocabulary, N completions per prompt, M micro-batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from flax import struct
from jax import Array
from pydantic import Field

from jaxrl_llm.schema import schema

Params = Any  # a pytree of arrays: the weights of one role, or of every role by name
Json = dict[str, Any]
# What is read off the last layer: logits over the vocabulary; one number; or two, the second a logit for "safe".
Head = Literal["lm", "scalar", "scalar+safety"]


class Mean(NamedTuple):
    """A weighted mean that has not been divided yet.

    Totals and counts are summed over micro-batches and hosts first and divided once at the very end, so that
    1 x 64 rows and 8 x 8 rows with ragged masks give the same number.  A count depends on the batch, never on params.
    """

    total: Array  # float32 scalar: sum of weight x value
    count: Array  # type: ignore[assignment]  # float32 scalar: sum of weights; hides tuple.count, which nobody misses


@struct.dataclass
class Tokens:
    """Rows of text, packed: what a language model reads and what it must predict.

    A document of n tokens, BOS ... EOS, gives n - 1 (input, target) pairs; rows are filled with such pairs.
    """

    inputs_BT: Array  # int32 ids that are read
    targets_BT: Array  # int32 ids to predict: the next token of the same document
    weights_BT: Array  # float32, 0 where there is nothing to learn (padding, a prompt)
    segments_BT: Array | None  # int32 number of the document in its row, from 1, 0 on padding; or None: one text a row
    positions_BT: Array  # int32 position in the document, for the rotary embedding
    parents_BT: Array | None = None  # int32 number of the segment that is seen besides one's own, 0 where there is none
    seeds_B: Array | None = None  # uint32, of the row's dropout; None: no dropout

    # Two answers to one prompt are three segments, of which the prompt is the parent of both: it is computed once.


@struct.dataclass
class Answers:
    """Answers to prompts, packed in rows: the prompt once, then its answers, which see it and not each other.

    Row of a language model (each answer begins with the prompt's last token, from which its first is predicted):

        inputs    <bos> W h o ?   \n G o e t h e   \n N o b o d y
        targets   W h o ? \n      G o e t h e <eos> N o b o d y <eos>
        segments  1 ........ 1    2 ........... 2   3 .......... 3
        parents   0 ........ 0    1 ........... 1   1 .......... 1
        weights   0 ........ 0    1 ........... 1   1 .......... 1

    A row for a scalar head has whole texts as inputs (the prompt whole, then each answer whole), targets 0, and
    weights 1 at each token of an answer that the assistant wrote.

    N = B·A numbers all slots of a micro-batch, slot a of row b being b·A + a.
    """

    tokens: Tokens
    segment_BA: Array  # int32 segment in its row that is the answer; 0: the slot is empty
    end_BA: Array  # int32 place in the row of the answer's last token, where a scalar head is read
    safe_BA: Array | None = None  # int32: 1 a safe answer, 0 an unsafe one, -1 not said
    ref_BA: Array | None = None  # float32 summed log-probability under the reference, nats; None until it is known


@struct.dataclass
class Pairs:
    """Comparisons: of two answers to a prompt one is better.  A ranking of K answers is its up to C(K, 2) pairs.

    Ties make no pair; what is left of a prompt weighs 1 together, so that a prompt is one element of the batch.
    """

    answers: Answers
    better_P: Array  # int32 slot in 0 .. N - 1
    worse_P: Array  # int32
    weight_P: Array  # float32: 1 / pairs of this prompt; 0: the place is empty
    margin_P: Array  # float32 by how much the better one should lead, in units of the score; 0 where nothing is said
    rating_P: Array  # int32: 3 significantly better, 2 better, 1 slightly, 0 negligibly; -1 not said


@struct.dataclass
class Labelled:
    """Answers judged one by one.  `mismatched`: the same prompts, each with an answer to another (KTO's baseline)."""

    answers: Answers
    label_BA: Array  # int32: 1 wanted, 0 unwanted, -1 an empty slot
    mismatched: Answers | None = None
    z0: Array | None = None  # float32 scalar, KTO's reference point, nats; None until prepared


@struct.dataclass
class Rollouts:
    """Prompts, each with an answer that the policy wrote and its reward: what reinforcement learning learns from.

    A row is a prompt, its answer, and padding; weights are 1 where a token of the answer is predicted:

        inputs    <bos> W h o ?   \n  G o e t h e
        targets   W     h o ? \n  G   o e t h e <eos>
        weights   0     0 0 0 0   1   1 1 1 1 1 1

    So V at a weighted place is the value before its target is written.  What `prepare` fills is None until then; all
    of it is 0 where weights are.
    """

    tokens: Tokens
    score_B: Array  # float32: the reward of the answer, penalties included, without any KL
    group_B: Array  # int32 number of the prompt in the rollout: answers to one prompt are a group
    ended_B: Array  # float32: 1 where the answer ended by itself, 0 where it was cut off
    sampler_logp_BT: Array  # float32 nats: log-probability of each token when it was drawn
    kl_coef_B: Array  # float32, the same in all rows: the weight of the KL, which adapts from round to round
    logp_BT: Array | None = None  # float32 nats: under the policy that wrote the answer, by the trainer
    ref_logp_BT: Array | None = None  # float32 nats: under the reference
    value_BT: Array | None = None  # float32: the critic's, then
    advantage_BT: Array | None = None  # float32
    return_BT: Array | None = None  # float32: what the critic shall learn
    pretrain: Tokens | None = None  # rows of text for PPO-ptx
    penalty_coef_B: Array | None = None  # float32, the same in all rows: β of PPO's KL-penalty variant, adapts as well
    statistics: dict[str, Array] | None = None  # float32 [B], the same in all rows: of the whole rollout, to be logged


@struct.dataclass
class TrainState:
    """All that a step changes, and what it must not.  `params` and `fixed` map roles to trees, whole together."""

    step: Array  # int32 scalar: updates done
    params: Params  # what is trained: float32 master weights by role
    fixed: Params  # all other leaves: read by the step, never donated, never differentiated
    opt_state: Params
    ema: Params = struct.field(default_factory=dict)  # running averages of `params`, of some roles


@dataclass(frozen=True)
class Model:
    """Pure functions over one role's params, built once from a LlamaConfig by `models.build_model`."""

    specs: Params  # tree of ParamSpec: the one statement of every weight
    init: Callable[..., Params]  # init(key) -> params, float32, jitted into their sharding
    logits: Callable[..., Array]  # logits(params, tokens_BT, segments_BT=None, positions_BT=None) -> float32 [B, T, V]
    token_scores: Callable[..., "TokenScores"]  # token_scores(params, tokens: Tokens, temperature=1.0)
    values: Callable[..., dict[str, Array]]  # of scalar heads: values(params, tokens: Tokens) -> name -> float32 [B, T]
    score: Callable[..., Array]  # of a scalar head: score(params, tokens_BT, lengths_B) -> [B], the last token's value
    decoder: "Decoder"  # the same model as a writer
    flops_per_token: Callable[..., float]  # flops_per_token(T, trained specs=None: all): of a token, model FLOPs


@dataclass(frozen=True)
class Decoder:
    """A language model as a writer, over an explicit KV cache."""

    prepare: Callable[[Params], Params]  # params -> weights cast and laid out for writing; once a rollout
    prefill: Callable[..., Any]  # prefill(weights, tokens_BT, lengths_B) -> logits_BV after each prompt, cache [B, T]
    decode: Callable[..., Any]  # decode(weights, tokens_B, cache, active_B) -> logits_BV, cache one token longer
    empty_cache: Callable[[int, int], Any]  # empty_cache(batch, length) -> KVCache


class TokenScores(NamedTuple):
    """What algorithms see instead of [B, T, V] logits; float32, at the target tokens.

    All three are 0 where the token's weight is: positions that nobody trains are not unembedded.
    """

    logp_BT: Array  # log-probability of the target token, nats
    entropy_BT: Array  # entropy of the predicted distribution, nats
    logz_BT: Array  # log of the softmax normaliser, for the z-loss


@schema
class ScoreScale:
    """How a reward model's raw scores lie on its reference answers.  The model itself gives the raw score."""

    bias: float = 0.0
    """Added to a raw score, it makes the reference answers score 0 on average."""
    mean: float = 0.0
    """Of the raw scores of the reference answers."""
    std: float = Field(default=1.0, gt=0.0)
    """Their standard deviation."""


@dataclass(frozen=True)
class Algo:
    """An algorithm: a pure `loss`, and a pure `prepare` where statistics over rows or other models are needed.

    objective = sum over k of weights[k] * total_k / count_k, the Means that `loss` returns as terms.
    """

    consumes: type  # the noun it reads: Tokens, Pairs, Labelled, Rollouts
    trained: Mapping[str, Head]  # role -> head, e.g. {"policy": "lm"}
    weights: Mapping[str, float]  # term -> weight in the objective; every term of `loss` has one
    loss: Callable[..., tuple[dict[str, Mean], dict[str, Mean]]]  # (params by role, micro-batch) -> terms, metrics
    frozen: Mapping[str, Head] = field(default_factory=dict)  # role -> head of models that are only read
    # (params by role, batch [M, b, ...]) -> batch; outside the gradient.  Of data the step calls it, of rollouts their
    # source, once a round: what was prepared under the policy that wrote stays while that is learnt from.
    prepare: Callable[..., Any] | None = None
    scores: Callable[..., Array] | None = None  # (params by role, micro-batch) -> [N]: what ranks answers, in its slots
    mismatched: bool = False  # it reads `Labelled.mismatched`
    penalised: bool = False  # it reads `Rollouts.penalty_coef_B`, which adapts to how far updates went
    sparse: frozenset[str] = frozenset()  # terms that a batch may have nothing for; of the others that is an error


class Source(Protocol):
    """Where batches come from: a data set is one kind, the policy's own rollouts another."""

    def next(self, state: TrainState) -> tuple[Any, dict[str, float]]:
        """The next batch, arrays [M, b, ...] sharded over the mesh, and host-side metrics of making it."""

    def observe(self, metrics: Mapping[str, Array]) -> None:
        """Sees each step's metrics, unfetched."""

    def state(self) -> tuple[Json, Params]:
        """Where the source stands: global JSON (never per host) and a pytree of arrays."""

    def restore(self, json: Json, arrays: Params) -> None:
        """Continue from what `state` returned."""
