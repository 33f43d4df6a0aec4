"""LoRA (Hu et al., arXiv 2106.09685): beside a weight stands a product of two skinny matrices, and that is trained.

y = x W + scale · (x A) B.  A and B stand beside W in the same layer dict, under its name: "wq", "wq.a", "wq.b".  A dict
without them computes the base model: what is fixed is itself the reference model, and no copy is needed.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field, model_validator

from jaxrl_llm.models.layers import contract
from jaxrl_llm.models.llama import Linear, linear
from jaxrl_llm.parallel.specs import ParamSpec, normal, zeros
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Params

Target = Literal["wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"]
RANKS = ("rank", "rank_by_embed")  # logical axes of r
TARGETS: tuple[Target, ...] = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")


@schema
class LoraConfig:
    """Adapters beside the weights of every layer; a scalar head (score, safety) is trained whole beside them."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1)
    """r: columns of A and rows of B."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The product A B is multiplied by alpha / rank."""
    targets: tuple[Target, ...] = Field(default=TARGETS, min_length=1)
    """The weights that have an adapter: wq, wk, wv, wo of attention, w_gate, w_up, w_down of the MLP."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the inputs of A that are zeroed while training, anew in every row, layer and target."""
    adapter: str | None = None
    """A directory in PEFT's format whose adapter is the start; null starts from A random and B zero: the base model."""

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank

    @model_validator(mode="after")
    def _each_once(self) -> "LoraConfig":
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets names a weight twice: {', '.join(self.targets)}")
        return self


def adapter_specs(config: LoraConfig, layers: Params) -> Params:
    """The specs of all adapters of a stack: wq [L, D, H, C] has wq.a [L, D, r] and wq.b [L, r, H, C].

    B starts at zero, so the model starts as its base; A starts with PEFT's variance, 1 / (3 · inputs).
    """
    return {name: spec for target in config.targets for name, spec in _pair(config.rank, target, layers[target])}


def _pair(rank: int, target: str, spec: ParamSpec) -> list[tuple[str, ParamSpec]]:
    inside = range(1, len(spec.axes))
    inputs = [i for i in inside if spec.axes[i] in spec.inputs]
    outputs = [i for i in inside if i not in inputs]
    a = ParamSpec(
        (spec.shape[0], *(spec.shape[i] for i in inputs), rank),
        ("layers", *(spec.axes[i] for i in inputs), rank_axis(spec, inputs)),
        normal((3 * math.prod(spec.shape[i] for i in inputs)) ** -0.5),
        spec.inputs,
    )
    b = ParamSpec(
        (spec.shape[0], rank, *(spec.shape[i] for i in outputs)),
        ("layers", rank_axis(spec, outputs), *(spec.axes[i] for i in outputs)),
        zeros,
        (rank_axis(spec, outputs),),
    )
    return [(f"{target}.a", a), (f"{target}.b", b)]


def rank_axis(spec: ParamSpec, others: list[int]) -> str:
    """The name of r beside these axes of a weight: it is split over the mesh axis that they leave."""
    return RANKS["embed" in (spec.axes[i] for i in others)]


def adapted_linear(config: LoraConfig, seeds_B: Array | None, layer: Array | int) -> Linear:
    """`linear` of one layer with adapters where the weights have them, as two skinny products: no A B is ever made.

    With `seeds_B`, one a row, x is dropped out before A.  The mask depends on the row's seed, layer and target alone:
    not on the rows beside it, nor on the mesh.
    """

    def apply(w: Params, name: str, x: Array) -> Array:
        y = linear(w, name, x)
        if f"{name}.a" not in w:
            return y
        if config.dropout > 0.0 and seeds_B is not None:
            x = _drop(x, config.dropout, seeds_B, layer, TARGETS.index(name))
        return y + contract(config.scale * contract(x, w[f"{name}.a"]), w[f"{name}.b"])

    return apply


def _drop(x: Array, rate: float, seeds_B: Array, layer: Array | int, target: int) -> Array:
    """x [B, T, ...] with a share of `rate` zeroed and the rest scaled up, so that the mean stays."""

    def kept(seed: Array) -> Array:
        key = jax.random.key(seed, impl="threefry2x32")  # others make a row's bits depend on its neighbours
        for part in (layer, target):
            key = jax.random.fold_in(key, part)
        return jax.random.bernoulli(key, 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(seeds_B), x / (1.0 - rate), 0.0)


def merged(w: Params, scale: float) -> Params:
    """One layer's weights with their adapters added in, W + scale · A B in float32, and none beside them any more."""

    def one(name: str) -> Array:
        if f"{name}.a" not in w:
            return w[name]
        return w[name] + scale * jnp.tensordot(w[f"{name}.a"], w[f"{name}.b"], axes=1, precision="highest")

    return {name: one(name) for name in w if "." not in name}
