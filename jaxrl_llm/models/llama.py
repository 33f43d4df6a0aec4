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

from jaxrl_llm.models.layers import Rope, rms_norm, swiglu
from jaxrl_llm.parallel.specs import ParamSpec, normal, ones, zeros
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


def llama_specs(c: LlamaConfig, head: Head = "lm") -> Params:
    """The spec tree.  Layers are stacked on a leading axis, whether they are then scanned or unrolled.

    Matrices start normal with std 1/sqrt(inputs); those that write to the residual stream are divided by sqrt(2 L).
    A scalar head stands instead of the unembedding, and starts with std 1/sqrt(D + 1) (arXiv 2009.01325).
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
    if head == "scalar":
        specs["score"] = ParamSpec((d, 1), ("embed", "scalar"), normal((d + 1) ** -0.5), ("embed",))
    elif not c.tie_embeddings:
        specs["unembed"] = ParamSpec((d, c.vocab_size), ("embed", "vocab"), normal(0.02), ("embed",))
    return specs


Attend = Callable[[Array, Array, Array], Array]  # (q_BTHC, k_BTKC, v_BTKC) -> out_BTHC


def block(c: LlamaConfig, w: Params, x_BTD: Array, rope: Rope, attend: Attend) -> Array:
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).  `w` is one layer's weights in the compute dtype."""
    y_BTD = rms_norm(x_BTD, w["attn_norm"], c.norm_eps)
    q_BTHC = jnp.einsum("btd,dhc->bthc", y_BTD, w["wq"])
    k_BTKC = jnp.einsum("btd,dkc->btkc", y_BTD, w["wk"])
    v_BTKC = jnp.einsum("btd,dkc->btkc", y_BTD, w["wv"])
    if c.qkv_bias:
        q_BTHC, k_BTKC, v_BTKC = q_BTHC + w["bq"], k_BTKC + w["bk"], v_BTKC + w["bv"]
    if c.qk_norm:
        q_BTHC = rms_norm(q_BTHC, w["q_norm"], c.norm_eps)
        k_BTKC = rms_norm(k_BTKC, w["k_norm"], c.norm_eps)
    out_BTHC = attend(rope(q_BTHC), rope(k_BTKC), v_BTKC)
    x_BTD = x_BTD + jnp.einsum("bthc,hcd->btd", out_BTHC, w["wo"])
    y_BTD = rms_norm(x_BTD, w["mlp_norm"], c.norm_eps)
    return x_BTD + swiglu(y_BTD, w["w_gate"], w["w_up"], w["w_down"])


def flops_per_token(c: LlamaConfig, length: int, head: Head = "lm") -> float:
    """Model FLOPs to train on one token in rows of `length`: 6 x weights that multiply + 6 L H C T for attention.

    The input embedding multiplies nothing; a tied one counts once, as the output.  Causal attention is counted at half
    of T x T, which the factor 6 (and not 12) says.  A sliding window shorter than the row bounds T.
    """
    from jaxrl_llm.parallel.specs import count_params

    n_params = count_params(llama_specs(c, head))
    if head == "scalar" or not c.tie_embeddings:
        n_params -= c.vocab_size * c.d_model
    seen = length if c.sliding_window is None else min(length, 2 * c.sliding_window)
    return 6.0 * n_params + 6.0 * c.n_layers * c.n_heads * c.channels * seen


def cast(spec: ParamSpec, w: Array, dtype: jnp.dtype) -> Array:
    """A weight in the compute dtype; the scales of norms stay float32, in which norms are computed."""
    return w if "norm" in spec.axes else w.astype(dtype)


def unstack(layers: Any, n_layers: int) -> list[Any]:
    """Stacked layer weights -> one tree a layer, by `lax.split`: its transpose writes the stacked gradient once."""
    flat, tree = jax.tree.flatten(layers)
    pieces = [jax.lax.split(leaf, (1,) * n_layers, axis=0) for leaf in flat]
    return [jax.tree.unflatten(tree, [p[i][0] for p in pieces]) for i in range(n_layers)]
