"""Hugging Face directories written: bit for bit what was read, and what transformers loads."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxrl_llm.errors import UserError
from jaxrl_llm.models.hf import Description, describe, read_weights, write_model
from jaxrl_llm.models.hf.configs import config_json
from jaxrl_llm.models.llama import LlamaConfig, llama_specs
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.parallel.specs import map_specs
from jaxrl_llm.types import ScoreScale
from tests.golden.hf_directories import REWARD_CASES, family, padded_BT, tensors, write
from tests.golden.llama_cases import BASE, CASES, tokens_BT
from tests.models.test_against_transformers import GOLDEN, config_of

MESH = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def through(source: Path, out: Path, dtype: str = "float32", max_shard: int = 10**9) -> Description:
    """Read a directory and write it again."""
    found = describe(source)
    params = read_weights(source, llama_specs(found.model, found.head), MESH)
    out.mkdir()
    write_model(
        out,
        found.model,
        found.head,
        params,
        dtype=dtype,  # type: ignore[arg-type]
        max_shard=max_shard,
        special=SPECIAL,
        score=found.score,
    )
    return found


def all_tensors(directory: Path) -> dict[str, np.ndarray]:
    return {name: x for path in directory.glob("*.safetensors") for name, x in load_file(path).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_read_then_written_is_the_same(name: str, dtype: str, tmp_path: Path) -> None:
    found = through(write(tmp_path / "in", name, dtype=dtype, layout=4), tmp_path / "out", dtype)
    want, got = all_tensors(tmp_path / "in"), all_tensors(tmp_path / "out")
    assert want.keys() == got.keys() == tensors(name).keys()
    for key, tensor in want.items():
        assert (got[key].dtype, got[key].shape) == (tensor.dtype, tensor.shape)
        assert got[key].tobytes() == tensor.tobytes()
    again = describe(tmp_path / "out")
    assert again.model == found.model == config_of(name)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == SPECIAL
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["architectures"] == [f"{family(name)}ForCausalLM"]
    assert raw["dtype"] == raw["torch_dtype"] == dtype


def test_shards_are_no_larger_than_asked_for(tmp_path: Path) -> None:
    through(write(tmp_path / "in"), tmp_path / "out", max_shard=20_000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in shards] == [f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    want, sizes = tensors("llama"), {}
    for path in shards:
        part = load_file(path)
        sizes[path.name] = sum(x.nbytes for x in part.values())
        assert {name for name, file in index["weight_map"].items() if file == path.name} == part.keys()
        for key, tensor in part.items():
            np.testing.assert_array_equal(tensor, want.pop(key))
    assert not want
    assert max(sizes.values()) <= 20_000
    assert index["metadata"]["total_size"] == sum(sizes.values())
    jax.tree.map(
        np.testing.assert_array_equal,
        *(read_weights(tmp_path / side, llama_specs(config_of("llama")), MESH) for side in ("in", "out")),
    )


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    through(write(tmp_path / "in"), tmp_path / "out", max_shard=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(tensors("llama"))


@pytest.mark.parametrize("name", REWARD_CASES)
def test_reward_models_keep_head_and_scale(name: str, tmp_path: Path) -> None:
    scale = ScoreScale(bias=-1.25, mean=1.25, std=0.5)
    source = write(tmp_path / "in", name, head="scalar", jaxrl_llm_score_scale=dataclasses.asdict(scale))
    through(source, tmp_path / "out")
    again = describe(tmp_path / "out")
    assert (again.head, again.score) == ("scalar", scale)
    np.testing.assert_array_equal(
        all_tensors(tmp_path / "out")["score.weight"], tensors(name, "scalar")["score.weight"], strict=True
    )
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["architectures"] == [f"{family(name)}ForSequenceClassification"]
    assert (len(raw["id2label"]), raw["pad_token_id"]) == (1, 0)
    assert raw["jaxrl_llm_score_scale"] == {"bias": -1.25, "mean": 1.25, "std": 0.5}
    assert not (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "Llama"),
        ({"sliding_window": 7}, "Mistral"),
        ({"d_model": 36, "n_heads": 8, "n_kv_heads": 8, "head_dim": 4}, "Mistral"),  # transformers' Llama wants D = H·C
        ({"qkv_bias": True}, "Qwen2"),
        ({"qkv_bias": True, "sliding_window": 7}, "Qwen2"),
        ({"qk_norm": True, "head_dim": 16}, "Qwen3"),
        ({"qk_norm": True, "sliding_window": 7}, "Qwen3"),
    ],
)
def test_each_combination_of_options_has_its_family(changes: dict, name: str, tmp_path: Path) -> None:
    model = LlamaConfig(**{**BASE, **changes})
    draw = np.random.default_rng(0).standard_normal
    params = map_specs(lambda spec: draw(spec.shape, np.float32), llama_specs(model))
    write_model(tmp_path, model, "lm", params, dtype="float32", max_shard=10**9, special=SPECIAL)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [f"{name}ForCausalLM"]
    assert describe(tmp_path).model == model
    jax.tree.map(np.testing.assert_array_equal, read_weights(tmp_path, llama_specs(model), MESH), params)


def test_a_combination_that_no_family_has_is_refused(tmp_path: Path) -> None:
    model = LlamaConfig(**BASE, qkv_bias=True, qk_norm=True)
    with pytest.raises(UserError, match=r"model.qkv_bias and model.qk_norm together are in none of .* Qwen3"):
        write_model(tmp_path, model, "lm", {}, dtype="float32", max_shard=1, special=SPECIAL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_it_and_agrees(name: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    through(write(tmp_path / "in", name), tmp_path / "out", max_shard=20_000)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens_BT())).logits.numpy()
    np.testing.assert_allclose(logits, np.load(GOLDEN)[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", REWARD_CASES)
def test_transformers_loads_reward_models_and_agrees(name: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    through(write(tmp_path / "in", name, head="scalar"), tmp_path / "out")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    with torch.no_grad():
        scores = model(torch.from_numpy(padded_BT())).logits[:, 0].numpy()
    np.testing.assert_allclose(scores, np.load(GOLDEN.with_name("hf.npz"))[f"score_{name}"], atol=1e-4, rtol=0)


def test_statistics_that_nobody_took_are_not_stated() -> None:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert "jaxrl_llm_score_scale" not in config_json(LlamaConfig(), "scalar", "float32", special, None)
