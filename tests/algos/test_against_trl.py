"""Losses, and their gradients with respect to every log-probability or score, as TRL has them."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algos import ALGOS
from jaxrl_llm.algos.dpo import DpoConfig
from jaxrl_llm.algos.kto import KtoConfig
from jaxrl_llm.algos.orpo import OrpoConfig
from jaxrl_llm.algos.reward import RewardConfig
from jaxrl_llm.algos.simpo import SimpoConfig
from jaxrl_llm.types import Labelled, Pairs
from tests.algos.lookup import language_model, objective, packed, pairs_of, reward_model, table
from tests.golden.trl_cases import CHOSEN_LENGTHS, MARGINS, MISMATCHED, POLICY, REFERENCE, REJECTED_LENGTHS, SCORES

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "trl.json").read_text(encoding="utf-8"))
CONFIGS: dict[str, Any] = {
    "dpo": DpoConfig(),
    "dpo_nll": DpoConfig(beta=0.5, nll_weight=0.5),
    "cdpo": DpoConfig(loss="cdpo", label_smoothing=0.1),
    "ipo": DpoConfig(loss="ipo"),
    "ipo_mean": DpoConfig(loss="ipo_mean"),
    "hinge": DpoConfig(loss="hinge", beta=0.5),
    "simpo": SimpoConfig(beta=2.0, gamma_ratio=0.5),
    "orpo": OrpoConfig(odds_weight=0.1),
    "kto": KtoConfig(undesirable_weight=1.5),
    "kto_below": KtoConfig(undesirable_weight=1.5),
    "reward": RewardConfig(margin="column", centring=0.01),
}
ROWS = list(zip(CHOSEN_LENGTHS, REJECTED_LENGTHS, strict=True))
N_TOKENS = sum(map(sum, ROWS))


def interleaved(chosen: Any, rejected: Any) -> list[np.ndarray]:
    """In the order of slots: a row is a chosen and a rejected answer."""
    return [np.atleast_1d(x) for row in zip(chosen, rejected, strict=True) for x in row]


def pairs(lengths: list[tuple[int, int]]) -> Pairs:
    return pairs_of(packed(lengths), [(0, 1, 1.0), (2, 3, 1.0), (4, 5, 1.0), (6, 7, 1.0)], list(map(float, MARGINS)))


def case(name: str) -> tuple[Any, Any, str]:
    """Params by role, a batch, and the role that is trained."""
    if name == "reward":
        return {"reward": {"score": table(*interleaved(*SCORES))}}, pairs([(1, 1)] * 4), "reward"
    policy, ref = interleaved(*POLICY), interleaved(*REFERENCE)
    if name.startswith("kto"):
        other, other_ref = MISMATCHED[name]
        labels = jnp.tile(jnp.asarray([1, 0]), (4, 1))
        batch = Labelled(packed(ROWS), labels, packed([(n,) for n in CHOSEN_LENGTHS], first_id=N_TOKENS + 1))
        return {"policy": table(*policy, *other), "ref": table(*ref, *other_ref)}, batch, "policy"
    return {"policy": table(*policy), "ref": table(*ref)}, pairs(ROWS), "policy"


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_trl(name: str) -> None:
    params, batch, role = case(name)
    config = CONFIGS[name]
    models = {"policy": language_model(), "ref": language_model(), "reward": reward_model()}
    loss, grads = jax.value_and_grad(objective(ALGOS[config.kind](config, models)))(params, batch)
    half = len(GOLDEN[name]["grads"]) // 2
    expected = np.concatenate(interleaved(GOLDEN[name]["grads"][:half], GOLDEN[name]["grads"][half:]))
    found = np.asarray(grads[role]["score"] if role == "reward" else grads[role])
    np.testing.assert_allclose(loss, GOLDEN[name]["loss"], rtol=1e-5)
    np.testing.assert_allclose(found[1 : 1 + len(expected)], expected, atol=1e-6, rtol=1e-5)
    assert np.abs(expected).max() > 1e-3
    assert not found[0]  # nothing to prompts and padding
    assert not found[1 + len(expected) :].any()  # nothing through KTO's reference point
    if "ref" in params:
        assert not grads["ref"].any()


def test_all_cases_are_compared() -> None:
    assert GOLDEN.keys() - {"trl"} == CONFIGS.keys()
    assert GOLDEN["kto"]["loss"] != GOLDEN["kto_below"]["loss"]
