"""Adapters in PEFT's format: what PEFT computes with them, computed here; what is written here, read by PEFT."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrl_llm.errors import UserError
from jaxrl_llm.models import ComputeConfig, build_model
from jaxrl_llm.models.hf import describe, describe_adapter, read_weights, write_adapter
from jaxrl_llm.models.lora import LoraConfig
from jaxrl_llm.models.trainable import build_trainable
from jaxrl_llm.parallel.mesh import MeshConfig, make_mesh
from jaxrl_llm.training.state import merge
from jaxrl_llm.types import Head
from tests.golden.hf_directories import LENGTHS, padded_BT, write
from tests.golden.llama_cases import tokens_BT

GOLDEN = Path(__file__).parent.parent / "golden" / "peft"
MESH = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
HEADS: dict[str, Head] = {"policy": "lm", "reward": "scalar"}


def opened(role: str, folder: Path, lora: LoraConfig) -> Any:
    """The base model of the golden adapters with one of them: model, trainable, trained and fixed weights."""
    base = write(folder, head=HEADS[role])
    model = build_model(describe(base).model, ComputeConfig(), MESH, HEADS[role], lora)
    trainable = build_trainable(lora, model.specs, MESH)
    trained, fixed = trainable.split(read_weights(base, model.specs, MESH), jax.random.key(0))
    return model, trainable, trained, fixed


def outputs(role: str, model: Any, params: Any) -> np.ndarray:
    if role == "policy":
        return np.asarray(jax.jit(model.logits)(params, tokens_BT()))
    return np.asarray(jax.jit(model.score)(params, padded_BT(), np.asarray(LENGTHS)))


@pytest.mark.parametrize("role", HEADS)
def test_outputs_equal_those_of_peft(role: str, tmp_path: Path) -> None:
    lora = describe_adapter(GOLDEN / role)
    model, trainable, trained, fixed = opened(role, tmp_path, lora)
    want = np.load(GOLDEN / "outputs.npz")[role]
    beside, added = merge(trained, fixed), trainable.join(trained, fixed)
    assert jax.tree.structure(added) == jax.tree.structure(jax.tree.map(lambda _: 0, fixed | added))
    for params in (beside, added):
        np.testing.assert_allclose(outputs(role, model, params), want, atol=1e-5 * np.abs(want).max(), rtol=0)
    base = outputs(role, model, fixed | {name: trained[name] for name in trained if name != "layers"})
    assert np.abs(base - want).max() > 0.1 * np.abs(want).max()  # the adapter is what is compared


def test_what_an_adapter_says() -> None:
    policy = describe_adapter(GOLDEN / "policy")
    assert (policy.rank, policy.alpha, policy.adapter) == (4, 6.0, str(GOLDEN / "policy"))
    assert policy.targets == ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")
    reward = describe_adapter(GOLDEN / "reward")
    assert reward.targets == ("wq", "w_down")
    assert reward.scale == pytest.approx(5 / 3**0.5)  # rank-stabilised: alpha / sqrt(r)


@pytest.mark.parametrize("role", HEADS)
def test_read_then_written_is_the_same(role: str, tmp_path: Path) -> None:
    lora = describe_adapter(GOLDEN / role)
    _, trainable, trained, _ = opened(role, tmp_path / "base", lora)
    write_adapter(tmp_path, lora, trained, trainable.specs, dtype="float32", base="base")
    want, got = (load_file(folder / "adapter_model.safetensors") for folder in (GOLDEN / role, tmp_path))
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    again = describe_adapter(tmp_path)
    assert (again.targets, again.rank, again.dropout) == (lora.targets, lora.rank, lora.dropout)
    assert again.scale == pytest.approx(lora.scale)
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    assert raw["task_type"] == {"policy": "CAUSAL_LM", "reward": "SEQ_CLS"}[role]


@pytest.mark.parametrize("role", HEADS)
def test_peft_loads_it_and_agrees(role: str, tmp_path: Path) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    lora = describe_adapter(GOLDEN / role)
    _, trainable, trained, _ = opened(role, tmp_path / "base", lora)
    write_adapter(tmp_path, lora, trained, trainable.specs, dtype="float32", base=str(tmp_path / "base"))
    kind = {"policy": "AutoModelForCausalLM", "reward": "AutoModelForSequenceClassification"}[role]
    base = getattr(transformers, kind).from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    rows = torch.from_numpy(tokens_BT() if role == "policy" else padded_BT())
    with torch.no_grad():
        got = model(rows, attention_mask=torch.ones_like(rows) if role == "policy" else (rows != 0).long()).logits
    want = np.load(GOLDEN / "outputs.npz")[role]
    np.testing.assert_allclose(got.numpy() if role == "policy" else got[:, 0].numpy(), want, atol=1e-4, rtol=0)


def changed(folder: Path, drop: str = "", **keys: Any) -> Path:
    """The policy's adapter with other keys, or without the tensors whose name contains `drop`."""
    folder.mkdir()
    raw = json.loads((GOLDEN / "policy" / "adapter_config.json").read_text()) | keys
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    tensors = load_file(GOLDEN / "policy" / "adapter_model.safetensors")
    kept = {name: x for name, x in tensors.items() if not drop or drop not in name}
    save_file(kept, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"r": "4"}, "rank: input should be a valid integer, found '4'"),
        ({"r": None, "use_rslora": True}, "r=None and lora_alpha=6 are not two numbers"),
        ({"lora_alpha": 0}, "alpha: input should be greater than 0, found 0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_we_do_not_do_is_refused(keys: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"adapter_config.json: .*{message}"):
        describe_adapter(changed(tmp_path / "a", **keys))


def test_an_adapter_of_another_kind_is_refused_with_the_keys_that_mend_it(tmp_path: Path) -> None:
    lora = LoraConfig(rank=8, alpha=6.0, targets=("wq",), adapter=str(GOLDEN / "policy"))
    message = r"mend: trainable.rank=4 trainable.targets=\[wq,wk,wv,wo,w_gate,w_up,w_down\]$"
    with pytest.raises(UserError, match=message):
        opened("policy", tmp_path, lora)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    """An adapter that only some layers have, one of another rank than it says, and one that is not of this head."""
    folder = changed(tmp_path / "some", drop="layers.1.self_attn.q_proj.lora_A")
    with pytest.raises(UserError, match=r"layers.1.self_attn.q_proj.lora_A.weight is missing.*by adapter_config.json"):
        opened("policy", tmp_path / "base", describe_adapter(folder))
    folder = changed(tmp_path / "ranks", r=5)
    with pytest.raises(UserError, match=r"lora_B.weight is \[32, 4\]; by adapter_config.json it is \[32, 5\]"):
        opened("policy", tmp_path / "base", describe_adapter(folder))
    with pytest.raises(UserError, match=r"score.weight \[1, 32\] is one too many"):
        opened("policy", tmp_path / "base", describe_adapter(GOLDEN / "reward"))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no adapter_config.json"):
        describe_adapter(tmp_path)
    folder = changed(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors is missing$"):
        describe_adapter(folder)
    (folder / "adapter_model.bin").touch()
    with pytest.raises(UserError, match=r"is missing; adapter_model.bin is a pickle"):
        describe_adapter(folder)


def test_a_safety_head_is_not_written(tmp_path: Path) -> None:
    lora = LoraConfig()
    model = build_model(describe(write(tmp_path / "base")).model, ComputeConfig(), MESH, "scalar+safety", lora)
    specs = build_trainable(lora, model.specs, MESH).specs
    with pytest.raises(UserError, match="safety head"):
        write_adapter(tmp_path / "out", lora, {}, specs, dtype="float32")
