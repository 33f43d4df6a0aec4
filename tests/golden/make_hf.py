"""Writes hf.npz with transformers and torch: `python -m tests.golden.make_hf` (needs both, and ../shared/data).

score_*   of a reward model, two rows of unequal length, read by transformers from a directory
stories   the 200 ids that stories260k writes greedily after BOS
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.golden.hf_directories import REWARD_CASES, padded_BT, write

STORIES = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "stories260k"


def scores_B(name: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        directory = write(Path(folder), name, head="scalar")
        model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="eager")
        rows = torch.from_numpy(padded_BT())
        return model(rows, attention_mask=(rows != 0).long()).logits[:, 0].numpy()


def greedy_ids() -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    out = model.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=200, eos_token_id=None)
    return out[0, 1:].numpy()


if __name__ == "__main__":
    scores = {f"score_{name}": scores_B(name) for name in REWARD_CASES}
    np.savez_compressed(Path(__file__).parent / "hf.npz", stories=greedy_ids(), **scores)
