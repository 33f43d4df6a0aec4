"""The Llama-style transformer: its config, the one statement of its weights, and its forward pass.

Pre-norm RMSNorm, SwiGLU, rotary embeddings, grouped-query attention, no biases (Llama 2, arXiv 2307.09288), with the
variations that its descendants made: rope scaling, tied output, qkv bias, q/k norms, own head size, sliding window.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrl_llm.models.layers import Rope, contract, rms_norm
from jaxrl_llm.parallel.specs import ParamSpec, count_params, is_spec, normal, ones, zeros
from jaxrl_llm.schema import schema
from jaxrl_llm.types import Head, Params


@schema
class LinearRope:
    """Position interpolation: positions are divided by `factor`."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(gt=0.0)


@schema
class Llama3Rope:
    """Llama 3.1's scaling by frequency: long waves are slowed by `factor`, short ones kept, between them a blend."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(default=8.0, gt=0.0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@schema
class NoRopeScaling:
    """Plain rotary embeddings."""

    kind: Literal["none"] = "none"


RopeScaling = Annotated[NoRopeScaling | LinearRope | Llama3Rope, Field(discriminator="kind")]


@schema
class LlamaConfig:
    """The architecture: all that decides the shapes and the function, nothing about how it is computed."""

    preset: str | None = None
    """A name of `models.presets`; the other keys then replace the preset's values."""
    vocab_size: int = Field(default=512, ge=1, le=10_000_000)
    """V; may exceed the tokenizer's."""
    context: int = Field(default=256, ge=2)
    """Longest row that the model is meant for."""
    d_model: int = Field(default=64, ge=1)
    """D: width of the residual stream."""
    d_ff: int = Field(default=192, ge=1)
    """F: width of the SwiGLU MLP."""
    n_layers: int = Field(default=2, ge=1)
    """L."""
    n_heads: int = Field(default=4, ge=1)
    """H: query heads."""
    n_kv_heads: int = Field(default=2, ge=1)
    """K: key/value heads, a divisor of H."""
    head_dim: int | None = Field(default=None, ge=2)
    """C: channels of a head; null is D / H."""
    rope_theta: float = Field(default=10_000.0, gt=0.0)
    rope_scaling: RopeScaling = NoRopeScaling()
    norm_eps: float = Field(default=1e-5, gt=0.0)
    tie_embeddings: bool = False
    """The output matrix is the embedding's transpose."""
    qkv_bias: bool = False
    """Biases on q, k and v (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm of each query and key head (Qwen3)."""
    sliding_window: int | None = Field(default=None, ge=1)
    """A query sees this many positions, its own included (Mistral); null sees all."""

    @property
    def channels(self) -> int:
        """C."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.n_heads


SCALARS = ("score", "safety")  # the reward, and the logit for "safe" of the auxiliary head


def llama_specs(c: LlamaConfig, head: Head = "lm") -> Params:
    """The spec tree.  Layers are stacked on a leading axis, whether they are then scanned or unrolled.

    Matrices start normal with std 1/sqrt(inputs); those that write to the residual stream are divided by sqrt(2 L).
    Scalar heads stand instead of the unembedding, and start with std 1/sqrt(D + 1) (arXiv 2009.01325).
    """
    n_l, d, f, h, k, ch = c.n_layers, c.d_model, c.d_ff, c.n_heads, c.n_kv_heads, c.channels
    std, residual = d**-0.5, (2 * n_l) ** -0.5
    layers = {
        "attn_norm": ParamSpec((n_l, d), ("layers", "norm"), ones),
        "wq": ParamSpec((n_l, d, h, ch), ("layers", "embed", "heads", "channels"), normal(std), ("embed",)),
        "wk": ParamSpec((n_l, d, k, ch), ("layers", "embed", "kv_heads", "channels"), normal(std), ("embed",)),
        "wv": ParamSpec((n_l, d, k, ch), ("layers", "embed", "kv_heads", "channels"), normal(std), ("embed",)),
        "wo": ParamSpec(
            (n_l, h, ch, d),
            ("layers", "heads", "channels", "embed"),
            normal((h * ch) ** -0.5 * residual),
            ("heads", "channels"),
        ),
        "mlp_norm": ParamSpec((n_l, d), ("layers", "norm"), ones),
        "w_gate": ParamSpec((n_l, d, f), ("layers", "embed", "mlp"), normal(std), ("embed",)),
        "w_up": ParamSpec((n_l, d, f), ("layers", "embed", "mlp"), normal(std), ("embed",)),
        "w_down": ParamSpec((n_l, f, d), ("layers", "mlp", "embed"), normal(f**-0.5 * residual), ("mlp",)),
    }
    if c.qkv_bias:
        layers["bq"] = ParamSpec((n_l, h, ch), ("layers", "heads", "channels"), zeros)
        layers["bk"] = ParamSpec((n_l, k, ch), ("layers", "kv_heads", "channels"), zeros)
        layers["bv"] = ParamSpec((n_l, k, ch), ("layers", "kv_heads", "channels"), zeros)
    if c.qk_norm:
        layers["q_norm"] = ParamSpec((n_l, ch), ("layers", "norm"), ones)
        layers["k_norm"] = ParamSpec((n_l, ch), ("layers", "norm"), ones)
    specs = {
        "embed": ParamSpec((c.vocab_size, d), ("vocab", "embed"), normal(0.02)),
        "layers": layers,
        "final_norm": ParamSpec((d,), ("norm",), ones),
    }
    for name in SCALARS[: 1 + (head == "scalar+safety")] if head != "lm" else ():
        specs[name] = ParamSpec((d, 1), ("embed", "scalar"), normal((d + 1) ** -0.5), ("embed",))
    if head == "lm" and not c.tie_embeddings:
        specs["unembed"] = ParamSpec((d, c.vocab_size), ("embed", "vocab"), normal(0.02), ("embed",))
    return specs


Attend = Callable[[Array, Array, Array], Array]  # (q_BTHC, k_BTKC, v_BTKC) -> out_BTHC
Linear = Callable[[Params, str, Array], Array]  # (one layer's weights, the name of one, x) -> x times that one


def linear(w: Params, name: str, x: Array) -> Array:
    """The weight alone; `models.lora` has the one with adapters beside it."""
    return contract(x, w[name])


def block(c: LlamaConfig, w: Params, x_BTD: Array, rope: Rope, attend: Attend, linear: Linear = linear) -> Array:
    """One layer: x + attention(norm(x)), then x + swiglu(norm(x)).  `w` is one layer's weights in the compute dtype.

    SwiGLU is (silu(x W_gate) * x W_up) W_down (Shazeer, arXiv 2002.05202).
    """
    y_BTD = rms_norm(x_BTD, w["attn_norm"], c.norm_eps)
    q_BTHC, k_BTKC, v_BTKC = (linear(w, name, y_BTD) for name in ("wq", "wk", "wv"))
    if c.qkv_bias:
        q_BTHC, k_BTKC, v_BTKC = q_BTHC + w["bq"], k_BTKC + w["bk"], v_BTKC + w["bv"]
    if c.qk_norm:
        q_BTHC = rms_norm(q_BTHC, w["q_norm"], c.norm_eps)
        k_BTKC = rms_norm(k_BTKC, w["k_norm"], c.norm_eps)
    out_BTHC = attend(rope(q_BTHC), rope(k_BTKC), v_BTKC)
    x_BTD = x_BTD + linear(w, "wo", out_BTHC)
    y_BTD = rms_norm(x_BTD, w["mlp_norm"], c.norm_eps)
    gate_BTF, up_BTF = linear(w, "w_gate", y_BTD), linear(w, "w_up", y_BTD)
    return x_BTD + linear(w, "w_down", jax.nn.silu(gate_BTF) * up_BTF)


def flops_per_token(c: LlamaConfig, length: int, head: Head = "lm", trained: Params | None = None) -> float:
    """Model FLOPs to train on one token in rows of `length`: what the maths needs, without what remat computes again.

    `trained` is the spec tree of what is trained, where that is not all.  Counted are, at 2 a weight:
    the forward pass through every weight; the backward pass through the weights of the lowest layer with something
    trained and of all above it, adapters included; the gradients of the trained weights.  Trained whole, that is 6 a
    weight.  Attention is 2 H C T a layer forward and twice that backward: causal, so half of T x T is counted.

    The input embedding multiplies nothing; a tied one counts once, as the output.  A sliding window shorter than the
    row bounds T.
    """
    specs = llama_specs(c, head)
    trained = specs if trained is None else trained
    table = 0 if head == "lm" and c.tie_embeddings else c.vocab_size * c.d_model  # that multiplies nothing
    layers = count_params(specs["layers"])
    top = count_params(specs) - layers - table  # head and final norm
    adapters = sum(count_params(spec) for _, stack in stacks(trained) for name, spec in stack.items() if "." in name)
    lowest = 0 if "embed" in trained else min((first for first, _ in stacks(trained)), default=c.n_layers)
    reached = c.n_layers - lowest  # layers that the backward pass goes through
    forward = layers + adapters + top
    backward = layers * reached // c.n_layers + adapters + (top if reached or "final_norm" in trained else 0)
    gradients = count_params(trained) - (table if "embed" in trained else 0)
    seen = length if c.sliding_window is None else min(length, 2 * c.sliding_window)
    attention = c.n_heads * c.channels * seen * (c.n_layers + 2 * reached)
    return 2.0 * (forward + backward + gradients + attention)


def cast(spec: ParamSpec, w: Array, dtype: jnp.dtype) -> Array:
    """A weight in the compute dtype; the scales of norms stay float32, in which norms are computed."""
    return w if "norm" in spec.axes else w.astype(dtype)


def stacks(params: Params) -> list[tuple[int, Params]]:
    """The stacks of consecutive layers, each with the number of its first layer, lowest first.

    A model has one, "layers"; where some layers alone are trained, it is cut: "layers@0", "layers@20".
    """
    named = [(name.partition("@"), stack) for name, stack in params.items()]
    return sorted(((int(at or 0), stack) for (name, _, at), stack in named if name == "layers"), key=lambda s: s[0])


def depth(stack: Params) -> int:
    """How many layers a stack of weights or of their specs has."""
    return jax.tree.leaves(stack, is_leaf=is_spec)[0].shape[0]


def unstack(stack: Any) -> list[Any]:
    """Stacked layer weights -> one tree a layer, by `lax.split`: its transpose writes the stacked gradient once."""
    flat, tree = jax.tree.flatten(stack)
    n_layers = depth(stack)
    pieces = [jax.lax.split(leaf, (1,) * n_layers, axis=0) for leaf in flat]
    return [jax.tree.unflatten(tree, [p[i][0] for p in pieces]) for i in range(n_layers)]
