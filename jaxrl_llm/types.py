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
Head = Literal["lm", "scalar"]  # what is read off the last layer: logits over the vocabulary, or one number


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


@struct.dataclass
class TrainState:
    """All that a step changes, and what it must not.  `params` and `fixed` map roles to trees, whole together."""

    step: Array  # int32 scalar: updates done
    params: Params  # what is trained: float32 master weights by role
    fixed: Params  # all other leaves: read by the step, never donated, never differentiated
    opt_state: Params


@dataclass(frozen=True)
class Model:
    """Pure functions over one role's params, built once from a LlamaConfig by `models.build_model`."""

    specs: Params  # tree of ParamSpec: the one statement of every weight
    init: Callable[..., Params]  # init(key) -> params, float32, jitted into their sharding
    logits: Callable[..., Array]  # logits(params, tokens_BT, segments_BT=None, positions_BT=None) -> float32 [B, T, V]
    token_scores: Callable[..., "TokenScores"]  # token_scores(params, tokens: Tokens, temperature=1.0)
    values: Callable[..., Array]  # of a scalar head: values(params, tokens_BT, as logits) -> float32 [B, T]
    score: Callable[..., Array]  # of a scalar head: score(params, tokens_BT, lengths_B) -> [B], the last token's value
    decoder: "Decoder"  # the same model as a writer
    flops_per_token: Callable[[int], float]  # model FLOPs of forward + backward for one token at row length T


@dataclass(frozen=True)
class Decoder:
    """A language model as a writer, over an explicit KV cache."""

    prepare: Callable[[Params], Params]  # params -> weights cast and laid out for writing; once a rollout
    prefill: Callable[..., Any]  # prefill(weights, tokens_BT, lengths_B) -> logits_BV after each prompt, cache [B, T]
    decode: Callable[..., Any]  # decode(weights, tokens_B, cache, active_B) -> logits_BV, cache one token longer
    empty_cache: Callable[[int, int], Any]  # empty_cache(batch, length) -> KVCache


class TokenScores(NamedTuple):
    """What algorithms see instead of [B, T, V] logits; float32, at the target tokens."""

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

    consumes: type  # the noun it reads: Tokens, ...
    trained: Mapping[str, Head]  # role -> head, e.g. {"policy": "lm"}
    weights: Mapping[str, float]  # term -> weight in the objective; every term of `loss` has one
    loss: Callable[..., tuple[dict[str, Mean], dict[str, Mean]]]  # (params by role, micro-batch) -> terms, metrics
    frozen: Mapping[str, Head] = field(default_factory=dict)  # role -> head of models that are only read
    prepare: Callable[..., Any] | None = None  # (params by role, raw rows) -> batch; outside the gradient


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
