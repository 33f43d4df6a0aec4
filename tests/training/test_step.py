"""The step and what watches it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_llm.errors import Diverged, UserError
from jaxrl_llm.training.hooks import check_finite
from jaxrl_llm.training.state import merge
from jaxrl_llm.training.step import make_step
from jaxrl_llm.types import Algo, Mean, TrainState

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def toy(weights: dict[str, float], sparse: frozenset[str] = frozenset()) -> Algo:
    """Two means of unequal counts over scalars: (a·x)² over all rows, (b·x) over the rows that are marked."""

    def loss(params: Any, batch: Any) -> tuple[dict[str, Mean], dict[str, Mean]]:
        w = params["policy"]
        square = Mean(jnp.sum(jnp.square(w["a"] * batch["x"])), jnp.float32(batch["x"].size))
        marked = Mean(jnp.sum(w["b"] * batch["x"] * batch["mark"]), jnp.sum(batch["mark"]))
        return {"square": square, "marked": marked}, {"marked": marked}

    return Algo(consumes=dict, trained={"policy": "lm"}, weights=weights, loss=loss, sparse=sparse)


def state(params: dict, fixed: dict, tx: Any) -> TrainState:
    params, fixed = jax.tree.map(jnp.float32, (params, fixed))
    return TrainState(step=jnp.int32(0), params=params, fixed=fixed, opt_state=tx.init(params))


def run(
    weights: dict[str, float], params: dict, fixed: dict, batch: dict, sparse: frozenset[str] = frozenset()
) -> tuple[TrainState, dict, TrainState]:
    tx = optax.with_extra_args_support(optax.scale(-1.0))  # an update is minus the gradient
    before = state(params, fixed, tx)
    shardings = jax.tree.map(lambda _: ONE, before)
    step = make_step(toy(weights, sparse), tx, lambda t: jnp.float32(0.5), shardings)
    after, metrics = step(before, jax.tree.map(jnp.asarray, batch))
    return after, jax.device_get(metrics), before


BATCH = {"x": np.float32([[1, 2], [3, 4]]), "mark": np.float32([[1, 0], [1, 1]])}  # [M=2, b=2]


def test_objective_and_gradient_by_hand_with_ragged_counts() -> None:
    """square = (1+4+9+16)·a²/4, marked = (1+3+4)·b/3: not the average over the micro-batches of their means."""
    after, metrics, _ = run({"square": 1.0, "marked": 2.0}, {"policy": {"a": 3.0, "b": 5.0}}, {}, BATCH)
    assert metrics["loss"] == pytest.approx(7.5 * 9 + 2 * 8 * 5 / 3)
    assert metrics["marked"] == pytest.approx(8 * 5 / 3)
    assert (metrics["count/square"], metrics["count/marked"], metrics["lr"]) == (4, 3, 0.5)
    assert float(after.params["policy"]["a"]) == pytest.approx(3 - 2 * 7.5 * 3)
    assert float(after.params["policy"]["b"]) == pytest.approx(5 - 2 * 8 / 3)
    assert metrics["grad_norm"] == pytest.approx(math.hypot(45, 16 / 3))
    assert int(after.step) == 1


def test_what_is_fixed_is_read_and_neither_moved_nor_donated() -> None:
    after, metrics, before = run({"square": 1.0, "marked": 1.0}, {"policy": {"a": 3.0}}, {"policy": {"b": 5.0}}, BATCH)
    assert metrics["loss"] == pytest.approx(7.5 * 9 + 8 * 5 / 3)
    assert after.fixed is before.fixed
    assert float(before.fixed["policy"]["b"]) == 5.0  # still there: a donated array would raise
    assert before.params["policy"]["a"].is_deleted()
    assert "b" not in after.params["policy"]


def test_merge_joins_trees_that_share_no_leaf() -> None:
    assert merge({"p": {"a": 1, "l": {"x": 2}}}, {"p": {"b": 3, "l": {"y": 4}}, "r": 5}) == {
        "p": {"a": 1, "b": 3, "l": {"x": 2, "y": 4}},
        "r": 5,
    }


def test_nothing_to_learn_is_an_error_and_not_a_loss_of_zero() -> None:
    batch = {**BATCH, "mark": np.zeros((2, 2), np.float32)}
    _, metrics, _ = run({"square": 1.0, "marked": 1.0}, {"policy": {"a": 3.0, "b": 5.0}}, {}, batch)
    with pytest.raises(UserError, match="nothing to learn for marked"):
        check_finite(7, metrics)


def test_a_sparse_term_may_have_nothing_and_then_no_mean_either() -> None:
    batch = {**BATCH, "mark": np.zeros((2, 2), np.float32)}
    params = {"policy": {"a": 3.0, "b": 5.0}}
    after, metrics, _ = run({"square": 1.0, "marked": 1.0}, params, {}, batch, frozenset({"marked"}))
    check_finite(7, metrics)
    assert math.isnan(metrics["marked"])
    assert metrics["loss"] == pytest.approx(7.5 * 9)
    assert float(after.params["policy"]["b"]) == 5.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_named(bad: float) -> None:
    with pytest.raises(Diverged, match="grad_norm of step 7") as error:
        check_finite(7, {"loss": 1.0, "grad_norm": bad})
    assert error.value.exit_code == 3


def test_a_train_state_is_a_pytree_of_five() -> None:
    assert [f.name for f in dataclasses.fields(TrainState)] == ["step", "params", "fixed", "opt_state", "ema"]
