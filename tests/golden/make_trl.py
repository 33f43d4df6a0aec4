"""Writes trl.json with TRL 1.16 and torch: `python -m tests.golden.make_trl` (needs both).

Of each case the loss and its gradient with respect to every token's log-probability (or every score), as TRL's own
trainers compute them; a stand-in plays the trainer, and the model that returns the log-probabilities of trl_cases.py.
TRL's DPO has no cDPO any more and no IPO of sums, but its CPO has the formulas, of log-ratios for log-probabilities.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import trl
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from tests.golden.trl_cases import MARGINS, MISMATCHED, POLICY, REFERENCE, SCORES, Ragged

ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def sums(ragged: Ragged) -> Tensor:
    return torch.tensor([x.sum() for x in ragged])


def trainer(**settings: Any) -> Any:
    """What the loss methods of TRL's trainers read of `self`."""
    base = {
        "accelerator": ACCELERATOR,
        "model": SimpleNamespace(training=False),
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "_total_train_tokens": 0,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "label_smoothing": 0.0,
        "alpha": 0.0,
    }
    return SimpleNamespace(**(base | settings))


UNUSED = ("entropy", "mean_logits", "is_top1")  # only logged


def batch(logps: list[Tensor]) -> tuple[dict[str, Tensor], Any]:
    """Inputs of a prompt of one token and these answers, and the model's outputs for them."""
    mask_BT = pad_sequence([torch.ones(len(x)) for x in logps], batch_first=True)
    completion_mask = torch.cat([torch.zeros(len(logps), 1), mask_BT], dim=1)
    inputs = {
        "input_ids": completion_mask.long(),
        "attention_mask": completion_mask.long(),
        "completion_mask": completion_mask,
    }
    logp_BT = pad_sequence(logps, batch_first=True)
    return inputs, MagicMock(log_probs=logp_BT, **dict.fromkeys(UNUSED, logp_BT > 0))


def dpo(loss_types: list[str], weights: list[float], beta: float) -> Callable[..., Tensor]:
    def loss(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
        me = trainer(
            ld_alpha=None,
            f_divergence_type="reverse_kl",
            loss_types=loss_types,
            loss_weights=weights,
            use_weighting=False,
            beta=beta,
        )
        inputs, outputs = batch(chosen + rejected)
        inputs |= {"ref_chosen_logps": sums(REFERENCE[0]), "ref_rejected_logps": sums(REFERENCE[1])}
        return trl.DPOTrainer._compute_loss(me, lambda **_: outputs, inputs, False)

    return loss


def cpo(loss_type: str, label_smoothing: float = 0.0) -> Callable[..., Tensor]:
    def loss(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
        me = trainer(loss_type=loss_type, beta=0.1, label_smoothing=label_smoothing)
        ratios = [
            torch.stack([x.sum() for x in logps]) - sums(ref)
            for logps, ref in zip((chosen, rejected), REFERENCE, strict=True)
        ]
        return CPOTrainer.cpo_loss(me, *ratios)[0].mean()

    return loss


def simpo(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
    me = trainer(loss_type="simpo", beta=2.0, simpo_gamma=1.0)
    means = [torch.stack([x.mean() for x in logps]) for logps in (chosen, rejected)]
    return CPOTrainer.cpo_loss(me, *means)[0].mean()


def orpo(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
    """TRL's likelihood counts the prompt's tokens too; here it is given that of the answer, as in the paper."""
    means = [torch.stack([x.mean() for x in logps]) for logps in (chosen, rejected)]
    nothing, nll = torch.zeros(1), -torch.cat(chosen).mean()
    me = trainer(beta=0.1, concatenated_forward=lambda model, batch: (*means, nothing, nothing, nll))
    me.odds_ratio_loss = lambda *logps: ORPOTrainer.odds_ratio_loss(me, *logps)
    return ORPOTrainer.get_batch_loss_metrics(me, None, {})[0]


def kto(name: str) -> Callable[..., Tensor]:
    policy, reference = (sums(x) for x in MISMATCHED[name])

    def loss(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
        me = trainer(
            calculate_KL=True,
            loss_type="kto",
            beta=0.1,
            desirable_weight=1.0,
            undesirable_weight=1.5,
            _compute_kl_logps=lambda model, batch: policy,
        )
        inputs, outputs = batch(chosen + rejected)
        inputs |= {
            "label": torch.tensor([True] * len(chosen) + [False] * len(rejected)),
            "ref_logps": torch.cat([sums(REFERENCE[0]), sums(REFERENCE[1])]),
            "ref_KL_logps": reference,
        }
        return trl.KTOTrainer._compute_loss(me, lambda **_: outputs, inputs, False)

    return loss


def reward(chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
    me = trainer(args=SimpleNamespace(center_rewards_coefficient=0.01))
    outputs = SimpleNamespace(logits=torch.stack(chosen + rejected)[:, None])
    inputs = {"margin": torch.from_numpy(MARGINS)}
    return trl.RewardTrainer.compute_loss(me, lambda **_: outputs, inputs)


CASES = {
    "dpo": dpo(["sigmoid"], [1.0], beta=0.1),
    "dpo_nll": dpo(["sigmoid", "sft"], [1.0, 0.5], beta=0.5),
    "cdpo": cpo("sigmoid", label_smoothing=0.1),
    "ipo": cpo("ipo"),
    "ipo_mean": dpo(["ipo"], [1.0], beta=0.1),
    "hinge": dpo(["hinge"], [1.0], beta=0.5),
    "simpo": simpo,
    "orpo": orpo,
    "kto": kto("kto"),
    "kto_below": kto("kto_below"),
    "reward": reward,
}


def golden(name: str) -> dict[str, Any]:
    """The loss, and its gradients in the shape of what it was given: chosen first, then rejected."""
    given = [[torch.tensor(x, requires_grad=True) for x in part] for part in (SCORES if name == "reward" else POLICY)]
    loss = CASES[name](*given)
    grads = torch.autograd.grad(loss, [x for part in given for x in part])
    return {"loss": loss.item(), "grads": [np.atleast_1d(g.numpy()).tolist() for g in grads]}


if __name__ == "__main__":
    made = {"trl": trl.__version__} | {name: golden(name) for name in CASES}
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in made.items())
    Path(__file__).with_name("trl.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
