"""Hugging Face directories read: what transformers computes with them, every layout of them, and what is refused."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxrl_llm.errors import UserError
from jaxrl_llm.models import PRESETS, ComputeConfig, LlamaConfig, build_model
from jaxrl_llm.models.hf import describe, read, read_weights
from jaxrl_llm.models.llama import flops_per_token, llama_specs
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.types import Tokens
from tests.golden.hf_directories import LENGTHS, REWARD_CASES, config, padded_BT, tensors, write
from tests.golden.llama_cases import CASES, tokens_BT
from tests.models.test_against_transformers import GOLDEN, config_of

HF_GOLDEN = GOLDEN.with_name("hf.npz")
ONE = make_mesh(MeshConfig(), jax.devices()[:1])


def load(directory: Path, mesh: jax.sharding.Mesh = ONE) -> dict:
    found = describe(directory)
    return read_weights(directory, llama_specs(found.model, found.head), mesh)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, shards=3 if "rope" in name else 1)
    model = build_model(describe(tmp_path).model, ComputeConfig(), ONE)
    logits = jax.jit(model.logits)(load(tmp_path), tokens_BT())
    np.testing.assert_allclose(logits, np.load(GOLDEN)[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", REWARD_CASES)
def test_scores_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    """At the last real token, whatever the padding; and `values` has them at every position."""
    found = describe(write(tmp_path, name, head="scalar"))
    assert found.head == "scalar"
    model, params = build_model(found.model, ComputeConfig(), ONE, "scalar"), load(tmp_path)
    rows, lengths = padded_BT(), np.asarray(LENGTHS)
    scores_B = jax.jit(model.score)(params, rows, lengths)
    np.testing.assert_allclose(scores_B, np.load(HF_GOLDEN)[f"score_{name}"], atol=1e-4, rtol=0)
    junk = np.where(rows == 0, 7, rows)
    assert (jax.jit(model.score)(params, junk, lengths) == scores_B).all()
    places = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    values_BT = jax.jit(model.values)(params, Tokens(rows, rows, rows, None, places))["score"]
    assert values_BT.shape == rows.shape
    assert values_BT.dtype == np.float32
    assert (values_BT[np.arange(2), lengths - 1] == scores_B).all()


def test_a_scalar_head_stands_instead_of_the_unembedding() -> None:
    c = LlamaConfig(d_model=1024, d_ff=8, n_layers=1, vocab_size=8)
    lm, scalar = llama_specs(c), llama_specs(c, "scalar")
    assert (
        scalar.keys()
        == (lm.keys() - {"unembed"}) | {"score"}
        == llama_specs(replace(c, tie_embeddings=True), "scalar").keys()
    )
    assert scalar["score"].init(jax.random.key(0), (1024, 1)).std() == pytest.approx(1025**-0.5, rel=0.1)
    assert flops_per_token(c, 16) - flops_per_token(c, 16, "scalar") == 6 * 1024 * (8 - 1)


@pytest.mark.parametrize("layout", [4, 5])
@pytest.mark.parametrize("name", CASES)
def test_both_layouts_of_config_json(name: str, layout: int, tmp_path: Path) -> None:
    assert describe(write(tmp_path, name, layout=layout)).model == config_of(name)


def test_keys_left_out_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

    def bare(name: str) -> LlamaConfig:
        raw = {key: value for key, value in config(name).items() if key in (*sizes, "architectures")}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return describe(tmp_path).model

    llama, mistral, qwen3 = bare("llama"), bare("mistral_window"), bare("qwen3_qk_norm")
    assert (llama.n_kv_heads, llama.norm_eps, llama.context, llama.rope_theta) == (4, 1e-6, 2048, 10_000.0)
    assert (mistral.n_kv_heads, mistral.context, mistral.sliding_window) == (8, 131_072, 4096)
    assert (qwen3.n_kv_heads, qwen3.channels, qwen3.sliding_window) == (32, 128, None)


def test_published_config_equals_the_preset(tmp_path: Path) -> None:
    """Llama 3.2 1B as it is on the hub, but for keys that do not matter."""
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert describe(tmp_path).model == PRESETS["llama3.2-1b"]


WINDOW = {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"sliding_window": 4, "max_window_layers": 0}, None),
        ({**WINDOW, "max_window_layers": 0}, 4),
        ({**WINDOW, "max_window_layers": 2}, None),
        ({**WINDOW, "max_window_layers": 28}, None),
        ({**WINDOW, "max_window_layers": 1}, "max_window_layers=1 is not supported"),
        ({**WINDOW, "max_window_layers": 28, "layer_types": ["sliding_attention"] * 2}, 4),
        ({**WINDOW, "layer_types": ["full_attention", "sliding_attention"]}, "is not supported"),
    ],
)
def test_window_of_qwen(changes: dict, window: int | str | None, tmp_path: Path) -> None:
    """transformers: layers from max_window_layers on have the window, if use_sliding_window; or layer_types says it."""
    write(tmp_path, "qwen2_bias", **changes)
    if isinstance(window, str):
        with pytest.raises(UserError, match=window):
            describe(tmp_path)
    else:
        assert describe(tmp_path).model.sliding_window == window


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes_become_float32(dtype: str, tmp_path: Path) -> None:
    params = load(write(tmp_path, dtype=dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    want = tensors("llama")["model.embed_tokens.weight"].astype(dtype).astype(np.float32)
    assert (np.asarray(params["embed"]) == want).all()


def test_every_mesh_gets_the_same_weights_and_only_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "qwen2_bias", shards=2)
    whole = load(tmp_path)
    for sizes in ({"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 2, "tensor": 4}):
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path, make_mesh(MeshConfig(**sizes))), whole)

    read_shard, held = read.read_shard, []
    monkeypatch.setattr(read, "read_shard", lambda *args: held.append(read_shard(*args)) or held[-1])
    shapes = {**config("llama"), "hidden_size": 256, "intermediate_size": 512, "vocab_size": 512}
    (tmp_path / "config.json").write_text(json.dumps(shapes))
    specs = llama_specs(describe(tmp_path).model)
    flat = jax.tree.leaves(read.places(specs), is_leaf=read.is_place)
    (tmp_path / "model.safetensors.index.json").unlink()
    zeros = {name: np.zeros(place.shape, np.float32) for place in flat for name in place.names}
    save_file(zeros, tmp_path / "model.safetensors")
    leaves = jax.tree.leaves(load(tmp_path, make_mesh(MeshConfig(fsdp=8))))
    total = sum(leaf.nbytes for leaf in leaves)
    for device in jax.devices():
        on_it = [shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards if shard.device == device]
        assert sum(on_it) <= 1.1 * total / 8
    assert max(array.nbytes for array in held) <= max(leaf.nbytes for leaf in leaves) / 8  # of what the host holds


def test_what_follows_from_other_tensors_may_be_there_too(tmp_path: Path) -> None:
    """A tied model's second copy of the embedding, and the rotary table of old checkpoints."""
    write(tmp_path, "llama_tied")
    whole = tensors("llama_tied")
    whole["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"].copy()
    save_file(whole, tmp_path / "model.safetensors")
    load(tmp_path)
    whole["lm_head.weight"][63, 31] += 1
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"lm_head.weight differs from model.embed_tokens.weight, though .*tie_word_emb"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "llama",
            {"architectures": ["GPT2LMHeadModel"]},
            "'GPT2LMHeadModel' is not supported; supported: LlamaForCausalLM",
        ),
        ("llama", {"architectures": None}, "names no architecture; supported: LlamaForCausalLM"),
        ("llama", {"model_type": "mistral"}, "model_type 'mistral' is not that of LlamaForCausalLM"),
        ("llama", {"hidden_size": None, "vocab_size": None}, "lacks vocab_size, hidden_size"),
        ("llama", {"hidden_size": "32"}, "hidden_size: input should be a valid integer, found '32'"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers: input should be greater than or equal to 1, found 0"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("qwen3_qk_norm", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True is not supported"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantization_config=.*awq.* is not supported"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported"),
        ("llama", {"num_local_experts": 8}, "num_local_experts=8 is not supported"),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "'dynamic' is not supported; supported: default",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn"}},
            "'yarn' is not supported; supported: default, linear, llama3",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "the linear rotary embedding lacks factor"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "full_attention of the default rotary"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor of the",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": -1}}, "factor: input should be greater than 0"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling: expected an object, found 'linear'"),
        ("llama", {"jaxrl_llm_score_scale": {"std": 0}}, "std: input should be greater than 0"),
        ("llama", {"jaxrl_llm_score_scale": 3}, "jaxrl_llm_score_scale: expected an object, found 3"),
    ],
)
def test_config_that_is_not_ours_is_refused_by_name(name: str, changes: dict, message: str, tmp_path: Path) -> None:
    write(tmp_path, name, **changes)
    with pytest.raises(UserError, match=message) as error:
        describe(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "config.json"))


def test_attention_bias_says_nothing_of_qwen2(tmp_path: Path) -> None:
    """transformers has biases on q, k and v there, and never on o."""
    assert describe(write(tmp_path, "qwen2_bias", attention_bias=True)).model == config_of("qwen2_bias")


def test_labels_of_a_classifier_are_refused(tmp_path: Path) -> None:
    write(tmp_path, head="scalar", id2label={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(UserError, match="id2label names 3 labels; a reward model has 1"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no config.json, so it is no Hugging Face model directory"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        (b"\xff\xfe", "is not valid JSON"),
        ("{}", "names no architecture"),
    ],
)
def test_broken_config_json(text: Any, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        describe(tmp_path)


def refused(directory: Path, *messages: str) -> None:
    with pytest.raises(UserError) as error:
        load(directory)
    for message in messages:
        assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 12


def test_wrong_tensors_are_named_with_both_shapes(tmp_path: Path) -> None:
    write(tmp_path)
    whole = tensors("llama")
    del whole["model.layers.1.mlp.up_proj.weight"]
    whole["model.norm.weight"] = np.zeros(31, np.float32)
    whole["lm_head.weight"] = whole["lm_head.weight"].astype(np.float64)
    whole["model.layers.2.mlp.up_proj.weight"] = np.zeros((48, 32), np.float32)
    save_file(whole, tmp_path / "model.safetensors")
    refused(
        tmp_path,
        "model.layers.1.mlp.up_proj.weight is missing; by config.json it is [48, 32]",
        "model.norm.weight is [31]; by config.json it is [32]",
        "lm_head.weight is of dtype F64; known are F32, BF16, F16",
        "model.layers.2.mlp.up_proj.weight [48, 32] is one too many",
    )
    write(tmp_path, num_hidden_layers=10**15)
    refused(tmp_path, "config.json says 1,000,000,000,000,000 layers, and there are 21 tensors in all")
    write(tmp_path, hidden_size=64)
    refused(tmp_path, "model.embed_tokens.weight is [64, 32]; by config.json it is [64, 64]", "  and 13 more")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    write(tmp_path, shards=3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.unlink()
    refused(tmp_path, f"the file {shard.name} is missing, which model.safetensors.index.json names")
    huge = struct.pack("<Q", 1 << 60)
    for content in (whole[:-1], whole[:40], b"", huge + whole[8:], whole + b"x"):
        shard.write_bytes(content)
        refused(tmp_path, f"{shard.name}: is cut short or damaged")
    shutil.copy(tmp_path / "model-00001-of-00003.safetensors", shard)
    refused(tmp_path, "is in model-00001-of-00003.safetensors too")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    refused(tmp_path, "has no weight_map of tensor names to file names")
    for path in tmp_path.glob("*.safetensors*"):
        path.unlink()
    refused(tmp_path, "neither model.safetensors nor model.safetensors.index.json is there")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "pytorch_model.bin: is a pickle, which can run any code", "save_pretrained('OUT')")


@pytest.mark.parametrize("name", ["../model.safetensors", "sub/../../model.safetensors", "/tmp/model.safetensors"])
def test_shards_outside_of_the_directory_are_not_read(name: str, tmp_path: Path) -> None:
    directory = write(tmp_path / "model")
    (directory / "model.safetensors").rename(tmp_path / "model.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(directory, f"{name} lies outside of the directory, and is not read")


def test_links_lead_out_of_a_directory_only_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = write(cache / "snapshots" / "0123abcd")
    (cache / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(cache / "blobs" / "beef")
    (snapshot / "model.safetensors").symlink_to("../../blobs/beef")
    load(snapshot)
    elsewhere = tmp_path / "copy"
    shutil.copytree(snapshot, elsewhere, symlinks=True)
    (elsewhere / "model.safetensors").unlink()
    (elsewhere / "model.safetensors").symlink_to(cache / "blobs" / "beef")
    refused(elsewhere, "model.safetensors lies outside of the directory, and is not read")


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    """Every finite bfloat16, as it is."""
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    every = np.where(np.isfinite(every.astype(np.float32)), every, ml_dtypes.bfloat16(0)).reshape(2048, 32)
    write(tmp_path, "llama_tied", vocab_size=2048)
    whole = tensors("llama_tied") | {"model.embed_tokens.weight": every}
    save_file(whole, tmp_path / "model.safetensors")
    assert (np.asarray(load(tmp_path)["embed"]) == every.astype(np.float32)).all()
