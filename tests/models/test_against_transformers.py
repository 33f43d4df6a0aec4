"""Our logits against those of transformers, in float32, for every option of the architecture."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_llm.models import ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.llama import LinearRope, Llama3Rope
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from tests.golden.llama_cases import BASE, CASES, tokens_BT, weight

GOLDEN = Path(__file__).parent.parent / "golden" / "llama_logits.npz"
ROPES = {"linear": LinearRope, "llama3": Llama3Rope}


def config_of(name: str) -> LlamaConfig:
    fields = {**BASE, **CASES[name]}
    if "rope_scaling" in fields:
        fields["rope_scaling"] = ROPES[fields["rope_scaling"]["kind"]](**fields["rope_scaling"])
    return LlamaConfig(**fields)


def foreign_params(c: LlamaConfig) -> dict:
    """The weights that the golden file was made with: Hugging Face's names and [out, in] matrices, into our tree."""
    d, f, h, k, ch = c.d_model, c.d_ff, c.n_heads, c.n_kv_heads, c.channels

    def layer(i: int) -> dict:
        at = f"layers.{i}."
        w = {
            "attn_norm": weight(at + "input_layernorm.weight", (d,)),
            "wq": weight(at + "self_attn.q_proj.weight", (h * ch, d)).T.reshape(d, h, ch),
            "wk": weight(at + "self_attn.k_proj.weight", (k * ch, d)).T.reshape(d, k, ch),
            "wv": weight(at + "self_attn.v_proj.weight", (k * ch, d)).T.reshape(d, k, ch),
            "wo": weight(at + "self_attn.o_proj.weight", (d, h * ch)).T.reshape(h, ch, d),
            "mlp_norm": weight(at + "post_attention_layernorm.weight", (d,)),
            "w_gate": weight(at + "mlp.gate_proj.weight", (f, d)).T,
            "w_up": weight(at + "mlp.up_proj.weight", (f, d)).T,
            "w_down": weight(at + "mlp.down_proj.weight", (d, f)).T,
        }
        if c.qkv_bias:
            w["bq"] = weight(at + "self_attn.q_proj.bias", (h * ch,)).reshape(h, ch)
            w["bk"] = weight(at + "self_attn.k_proj.bias", (k * ch,)).reshape(k, ch)
            w["bv"] = weight(at + "self_attn.v_proj.bias", (k * ch,)).reshape(k, ch)
        if c.qk_norm:
            w["q_norm"] = weight(at + "self_attn.q_norm.weight", (ch,))
            w["k_norm"] = weight(at + "self_attn.k_norm.weight", (ch,))
        return w

    params = {
        "embed": weight("embed_tokens.weight", (c.vocab_size, d)),
        "layers": jax.tree.map(lambda *x: np.stack(x), *[layer(i) for i in range(c.n_layers)]),
        "final_norm": weight("norm.weight", (d,)),
    }
    if not c.tie_embeddings:
        params["unembed"] = weight("lm_head.weight", (c.vocab_size, d)).T
    return params


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(name: str) -> None:
    config = config_of(name)
    model = build_model(config, ComputeConfig(), make_mesh(MeshConfig(), jax.devices()[:1]))
    params = foreign_params(config)
    jax.tree.map(lambda spec, w: w.shape == spec.shape or pytest.fail(f"{spec} {w.shape}"), model.specs, params)
    ours = np.asarray(jax.jit(model.logits)(params, tokens_BT()))
    theirs = np.load(GOLDEN)[name]
    assert np.abs(theirs).max() > 1.0
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
