"""Schedules: values worked out by hand, no jumps, no rate of 0, no division by zero."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jaxrl_llm.training.schedules import (
    SCHEDULES,
    ConstantConfig,
    CosineConfig,
    CyclesConfig,
    InfiniteCosineConfig,
    InfiniteInvSqrtConfig,
    InverseSqrtConfig,
    LinearConfig,
    ScheduleConfig,
    WsdConfig,
    make_schedule,
)

ALL: list[Any] = [
    ConstantConfig(),
    LinearConfig(),
    CosineConfig(),
    WsdConfig(),
    WsdConfig(shape="linear", min_ratio=0.1),
    InverseSqrtConfig(),
    InfiniteCosineConfig(),
    InfiniteInvSqrtConfig(),
    CyclesConfig(period=25_000),
]
each = pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)


def rates(config: Any, total: int, steps: Any = None) -> np.ndarray:
    return np.asarray(make_schedule(config, total)(jnp.arange(total) if steps is None else jnp.asarray(steps)))


@pytest.mark.parametrize(
    ("config", "total", "expected"),
    [
        # warm-up over 10 of 100 steps: a tenth of the peak more with each update, the tenth one at the peak
        (ConstantConfig(lr=2.0, warmup=0.1), 100, {0: 0.2, 4: 1.0, 9: 2.0, 10: 2.0, 99: 2.0, 500: 2.0}),
        (ConstantConfig(lr=2.0, warmup=0.0), 100, {0: 2.0, 99: 2.0}),
        # 90 steps from 1 to .1: .01 a step
        (
            LinearConfig(lr=1.0, warmup=0.1, min_ratio=0.1),
            100,
            {0: 0.1, 10: 1.0, 11: 0.99, 55: 0.55, 99: 0.11, 100: 0.1},
        ),
        (LinearConfig(lr=1.0, warmup=0.0), 4, {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0, 9: 0.0}),
        # cos of 0, π/3, π/2, π
        (
            CosineConfig(lr=1.0, warmup=0.1, min_ratio=0.2),
            100,
            {4: 0.5, 9: 1.0, 10: 1.0, 40: 0.2 + 0.4 * 1.5, 55: 0.6, 100: 0.2, 101: 0.2},
        ),
        (
            WsdConfig(lr=1.0, warmup=0.1, decay=0.2, shape="linear"),
            100,
            {4: 0.5, 10: 1.0, 80: 1.0, 85: 0.75, 99: 0.05, 100: 0.0},
        ),
        (WsdConfig(lr=1.0, warmup=0.0, decay=0.25), 400, {0: 1.0, 300: 1.0, 301: 0.9, 325: 0.5, 349: 0.3, 400: 0.0}),
        (InverseSqrtConfig(lr=3.0, warmup=0.04), 100, {0: 0.75, 3: 3.0, 4: 3.0, 16: 1.5, 36: 1.0}),
        # the published numbers: 3e-4 down to 1.65e-4 at 70 %, kept to 80 %, annealed to 3e-5
        (
            InfiniteCosineConfig(),
            1000,
            {
                0: 3e-5,
                9: 3e-4,
                10: 3e-4,
                355: 2.325e-4,
                700: 1.65e-4,
                800: 1.65e-4,
                900: math.sqrt(1.65e-4 * 3e-5),
                1000: 3e-5,
            },
        ),
        # h(.3) = 1/2 − 1; h(1) = 1/sqrt(11) − 1
        (
            InfiniteInvSqrtConfig(warmup=0.1, cooldown_end=0.6),
            1000,
            {
                99: 3e-4,
                100: 3e-4,
                250: 3e-4 - 1.35e-4 * 0.5 / (1 - 1 / math.sqrt(11)),
                600: 1.65e-4,
                799: 1.65e-4,
                1000: 3e-5,
            },
        ),
        # each cycle of 100 warms up over 10 and ends near a tenth
        (
            CyclesConfig(lr=1.0, warmup=0.1, period=100),
            250,
            {0: 0.1, 10: 1.0, 55: 0.55, 100: 0.1, 109: 1.0, 155: 0.55, 210: 1.0},
        ),
    ],
    ids=lambda x: getattr(x, "kind", ""),
)
def test_values_by_hand(config: Any, total: int, expected: dict[int, float]) -> None:
    np.testing.assert_allclose(rates(config, total, list(expected)), list(expected.values()), rtol=2e-6, atol=1e-9)


def test_cool_downs_at_a_quarter() -> None:
    """The two infinite schedules differ in the cool-down alone, where the inverse square root falls first."""
    cosine, inv_sqrt = (rates(kind(warmup=0.0), 1000) for kind in (InfiniteCosineConfig, InfiniteInvSqrtConfig))
    np.testing.assert_allclose(cosine[175], 1.65e-4 + 0.675e-4 * (1 + math.sqrt(0.5)), rtol=1e-6)
    np.testing.assert_allclose(
        inv_sqrt[175], 3e-4 - 1.35e-4 * (1 - 1 / math.sqrt(3.5)) / (1 - 1 / math.sqrt(11)), rtol=1e-6
    )
    np.testing.assert_allclose(cosine[700:], inv_sqrt[700:], rtol=1e-6)


@each
def test_no_jumps(config: Any) -> None:
    """With 100,000 steps no step changes the rate by a hundredth of lr, but for the starts of cycles."""
    r = rates(config, 100_000) / config.lr
    jumps = np.flatnonzero(np.abs(np.diff(r)) > 0.01) + 1
    assert jumps.tolist() == ([25_000, 50_000, 75_000] if config.kind == "cycles" else [])


@each
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_short_runs_learn_at_every_step(config: Any, total: int) -> None:
    r = rates(config, total)
    assert np.all(np.isfinite(r))
    assert np.all(r > 0)
    assert np.all(r <= np.float32(config.lr))


@pytest.mark.parametrize("kind", [InfiniteCosineConfig, InfiniteInvSqrtConfig])
def test_infinite_goes_on_without_a_jump(kind: Any) -> None:
    """From a constant-phase checkpoint: a later phase of constant and anneal, or the anneal alone; neither warms up."""
    before = rates(kind(), 1000)[750]
    later = rates(kind(cooldown_end=0.0, constant_end=0.5), 1000)
    anneal = rates(kind(cooldown_end=0.0, constant_end=0.0), 1000)
    np.testing.assert_allclose([before, later[0], later[500], anneal[0]], 1.65e-4, rtol=1e-6)
    ratio = (3e-5 / 1.65e-4) ** (1 / 1000)
    np.testing.assert_allclose(anneal[1:] / anneal[:-1], ratio, rtol=1e-5)
    np.testing.assert_allclose(anneal[-1], 3e-5 / ratio, rtol=1e-5)


@each
def test_under_jit_with_a_traced_step(config: Any) -> None:
    schedule = make_schedule(config, 40)
    traced = jax.jit(schedule)(jnp.int32(7))
    assert traced.dtype == jnp.float32
    assert traced.shape == ()
    np.testing.assert_allclose(traced, schedule(7), rtol=1e-6)


def test_shape_is_kept_when_the_run_grows() -> None:
    short, long = rates(CosineConfig(), 1000), rates(CosineConfig(), 10_000)
    np.testing.assert_allclose(short[10:], long[100::10], rtol=1e-5)


def test_every_kind_is_in_the_union_and_the_table() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ScheduleConfig)
    for kind in SCHEDULES:
        extra = {"period": 5} if kind == "cycles" else {}
        assert adapter.validate_json(json.dumps({"kind": kind, "lr": 1e-3, **extra})).kind == kind
    assert set(SCHEDULES) == {config.kind for config in ALL} == set(adapter.json_schema()["discriminator"]["mapping"])


@pytest.mark.parametrize(
    ("kind", "keys", "says"),
    [
        (CosineConfig, {"lr": 0.0}, "greater than 0"),
        (CosineConfig, {"warmup": 100}, "less than 1"),
        (WsdConfig, {"warmup": 0.5, "decay": 0.6}, "at most 1 in sum"),
        (InfiniteCosineConfig, {"cooldown_end": 0.9}, "after constant_end"),
        (InfiniteInvSqrtConfig, {"warmup": 0.2, "cooldown_end": 0.1}, "leaves no room"),
        (CyclesConfig, {"period": 0}, "greater than or equal to 1"),
    ],
)
def test_refusals(kind: Any, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        kind(**keys)
