"""Writes peft/ with PEFT, transformers and torch: `python -m tests.golden.make_peft` (needs all three).

peft/policy, peft/reward   adapters as PEFT saves them, their numbers random
peft/outputs.npz           policy: logits of two rows; reward: scores of two rows of unequal length
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.golden.hf_directories import padded_BT, write
from tests.golden.llama_cases import tokens_BT, weight

FOLDER = Path(__file__).parent / "peft"


def adapted(name: str, head: str, auto_class: type, config: LoraConfig) -> torch.nn.Module:
    """The model of the case `llama` with a random adapter, which is saved."""
    with tempfile.TemporaryDirectory() as folder:
        base = auto_class.from_pretrained(write(Path(folder), head=head), attn_implementation="eager")
    model = get_peft_model(base, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(weight(key, tuple(parameter.shape))))
    model.peft_config["default"].base_model_name_or_path = None
    model.save_pretrained(FOLDER / name)
    (FOLDER / name / "README.md").unlink()
    return model.eval()


if __name__ == "__main__":
    policy = adapted(
        "policy",
        "lm",
        AutoModelForCausalLM,
        LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    reward = adapted(
        "reward",
        "scalar",
        AutoModelForSequenceClassification,
        LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"], task_type="SEQ_CLS"),
    )
    rows = torch.from_numpy(padded_BT())
    with torch.no_grad():
        logits = policy(torch.from_numpy(tokens_BT())).logits.numpy()
        scores = reward(rows, attention_mask=(rows != 0).long()).logits[:, 0].numpy()
    np.savez_compressed(FOLDER / "outputs.npz", policy=logits, reward=scores)
