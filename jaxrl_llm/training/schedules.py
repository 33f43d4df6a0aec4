"""Learning-rate schedules: each is a config and, beside it, a pure function of the step.

Update t = 0, 1, ... total - 1 uses `schedule(t)`.  In a warm-up of W steps it has the rate lr·(t + 1)/W: the first one
learns, number W (t = W - 1) is at the peak.  In a later phase over updates a to b it has come the share
s = (t - a)/(b - a) of the way: its first update has the starting rate, and the last one of a run stops one short
of the end value.  So no update is wasted on a rate of 0, not even the only one of a run.

Rates besides `lr` are ratios of it, and lengths are shares of the run: a schedule keeps its shape when the peak or
`training.steps` changes, and fits a run whose steps follow from epochs.  (A published 2,000 of 500,000 steps is .004.)

To add one: a config, a function, its place in ScheduleConfig and in the table at the end.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jax import Array
from pydantic import Field, model_validator

from jaxrl_llm.schema import schema

Schedule = Callable[[Array | int], Array]

ALPHA = 10.0  # how bent the inverse square root cool-down is


@schema
class _Peak:
    """What every schedule has."""

    # Keys that are inherited describe themselves in Field; a docstring would not reach the subclass's JSON schema.
    kind: str
    lr: float = Field(default=3e-4, gt=0.0, description="Peak learning rate.")
    warmup: float = Field(
        default=0.01,
        ge=0.0,
        lt=1.0,
        description="Share of the run (of the period, in cycles) in which the rate climbs to lr; 0 starts at lr.",
    )


@schema
class ConstantConfig(_Peak):
    """lr after the warm-up."""

    kind: Literal["constant"] = "constant"


def constant(c: ConstantConfig, total: int, t: Array) -> Array:
    """1."""
    return _climb(t, _steps(c.warmup, total))


@schema
class LinearConfig(_Peak):
    """A straight line from lr to min_ratio·lr."""

    kind: Literal["linear"] = "linear"
    min_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Rate at the end, as a share of lr."""


def linear(c: LinearConfig, total: int, t: Array) -> Array:
    """1 − (1 − m)·s."""
    warm = _steps(c.warmup, total)
    return _climb(t, warm) * (1 - (1 - c.min_ratio) * _progress(t, warm, total))


@schema
class CosineConfig(_Peak):
    """Half a cosine from lr to min_ratio·lr: Llama 2's, and one phase of continual pretraining."""

    kind: Literal["cosine"] = "cosine"
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Rate at the end, as a share of lr."""


@schema
class CyclesConfig(_Peak):
    """Re-warm and re-decay (arXiv 2403.08763): the cosine with its warm-up, again and again."""

    kind: Literal["cycles"] = "cycles"
    period: int = Field(ge=1)
    """Steps of one cycle: in steps, not a share, since it follows the data and outlives a longer run."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Rate at the end of each cycle, as a share of lr."""


def cosine(c: CosineConfig | CyclesConfig, total: int, t: Array) -> Array:
    """m + (1 − m)/2·(1 + cos(π s))."""
    warm = _steps(c.warmup, total)
    return _climb(t, warm) * _half_cosine(_progress(t, warm, total), c.min_ratio)


def cycles(c: CyclesConfig, total: int, t: Array) -> Array:
    """The cosine of a run of `period` steps; the length of the whole run does not matter."""
    return cosine(c, c.period, t % c.period)


@schema
class WsdConfig(_Peak):
    """Warm-up, stable, decay (arXiv 2404.06395): one long constant phase, from which one may decay at any time."""

    kind: Literal["wsd"] = "wsd"
    decay: float = Field(default=0.2, ge=0.0, le=1.0)
    """Last share of the run, in which the rate falls."""
    shape: Literal["linear", "1-sqrt"] = "1-sqrt"
    """How it falls: 1 − s, or 1 − sqrt(s), which arXiv 2405.18392 found better."""
    min_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Rate at the end, as a share of lr."""

    @model_validator(mode="after")
    def _fits(self) -> "WsdConfig":
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are shares of one run: at most 1 in sum")
        return self


def wsd(c: WsdConfig, total: int, t: Array) -> Array:
    """1, then 1 − (1 − m)·s or 1 − (1 − m)·sqrt(s)."""
    s = _progress(t, total - _steps(c.decay, total), total)
    fallen = {"linear": s, "1-sqrt": jnp.sqrt(s)}[c.shape]
    return _climb(t, _steps(c.warmup, total)) * (1 - (1 - c.min_ratio) * fallen)


@schema
class InverseSqrtConfig(_Peak):
    """lr·sqrt(W/t) after a warm-up of W steps (arXiv 1706.03762); a run ends at sqrt(warmup)·lr."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"


def inverse_sqrt(c: InverseSqrtConfig, total: int, t: Array) -> Array:
    """sqrt(W/t)."""
    warm = _steps(c.warmup, total)
    scale = max(warm, 1)
    return _climb(t, warm) * jnp.sqrt(scale / jnp.maximum(t, scale))


@schema
class _Infinite(_Peak):
    """Infinite schedules (arXiv 2403.08763): warm-up to lr, cool-down, constant, exponential anneal.

    The checkpoint before the anneal is the one to go on from, on new data or for longer: a phase that continues it sets
    cooldown_end=0, starts at the constant rate without warm-up, and keeps the optimizer's state.  With constant_end=0
    as well, a phase is the anneal alone: so one may stop at any time.
    """

    const_ratio: float = Field(
        default=0.55, gt=0.0, le=1.0, description="Rate of the constant phase, as a share of lr: 1.65e-4 of 3e-4."
    )
    min_ratio: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Rate after the anneal, as a share of lr: 3e-5 of 3e-4."
    )
    cooldown_end: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="Share of the run at which the cool-down ends; 0: start at const_ratio·lr, without warm-up.",
    )
    constant_end: float = Field(
        default=0.8, ge=0.0, le=1.0, description="Share of the run at which the anneal starts; 1: never."
    )

    @model_validator(mode="after")
    def _in_order(self) -> "_Infinite":
        if not self.cooldown_end <= self.constant_end:
            raise ValueError(
                f"cooldown_end {self.cooldown_end:g} lies after constant_end {self.constant_end:g}: "
                "the order is warm-up, cool-down, constant, anneal"
            )
        if 0 < self.cooldown_end <= self.warmup:
            raise ValueError(
                f"warmup {self.warmup:g} leaves no room before cooldown_end {self.cooldown_end:g}: "
                "shorten the warm-up, or set cooldown_end=0 to start at the constant rate"
            )
        return self


@schema
class InfiniteCosineConfig(_Infinite):
    """The infinite schedule that cools down along half a cosine."""

    kind: Literal["infinite_cosine"] = "infinite_cosine"


def infinite_cosine(c: InfiniteCosineConfig, total: int, t: Array) -> Array:
    """Cool-down k + (1 − k)/2·(1 + cos(π s)), k the constant's ratio."""
    return _infinite(c, total, t, lambda s: _half_cosine(s, c.const_ratio))


@schema
class InfiniteInvSqrtConfig(_Infinite):
    """The infinite schedule that cools down along an inverse square root."""

    kind: Literal["infinite_inv_sqrt"] = "infinite_inv_sqrt"


def infinite_inv_sqrt(c: InfiniteInvSqrtConfig, total: int, t: Array) -> Array:
    """Cool-down 1 + (k − 1)·h(s)/h(1), h(s) = 1/sqrt(1 + α s) − 1, k the constant's ratio."""
    h_1 = (1 + ALPHA) ** -0.5 - 1
    return _infinite(c, total, t, lambda s: 1 + (c.const_ratio - 1) * ((1 + ALPHA * s) ** -0.5 - 1) / h_1)


def _infinite(c: _Infinite, total: int, t: Array, cool: Callable[[Array], Array]) -> Array:
    """Warm-up and cool-down, then k·(m/k)^s: each factor stays at 1, or at its end, outside its own phase."""
    cool_end, constant_end = _steps(c.cooldown_end, total), _steps(c.constant_end, total)
    warm = _steps(min(c.warmup, c.cooldown_end), total)
    anneal = (c.min_ratio / c.const_ratio) ** _progress(t, constant_end, total)
    return _climb(t, warm) * cool(_progress(t, warm, cool_end)) * anneal


ScheduleConfig = Annotated[
    ConstantConfig
    | LinearConfig
    | CosineConfig
    | WsdConfig
    | InverseSqrtConfig
    | InfiniteCosineConfig
    | InfiniteInvSqrtConfig
    | CyclesConfig,
    Field(discriminator="kind"),
]

# kind -> function (config, total steps, step) -> share of lr
SCHEDULES: dict[str, Callable[[Any, int, Array], Array]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "inverse_sqrt": inverse_sqrt,
    "infinite_cosine": infinite_cosine,
    "infinite_inv_sqrt": infinite_inv_sqrt,
    "cycles": cycles,
}


def make_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """The rate of every update of a run of `total_steps`: step (an int or an int32 array, traced or not) -> float32.

    Past the end it stays at the end value (cycles go on).
    """
    share = SCHEDULES[config.kind]
    return lambda step: jnp.asarray(config.lr * share(config, total_steps, jnp.asarray(step)), jnp.float32)


def _steps(share: float, total: int) -> int:
    """A share of the run in whole steps."""
    return round(share * total)


def _climb(t: Array, warm: int) -> Array:
    """The warm-up: (t + 1)/W up to 1, and 1 from the start when there is none."""
    return jnp.minimum((t + 1) / max(warm, 1), 1.0)


def _progress(t: Array, start: int, end: int) -> Array:
    """s: 0 up to update `start`, 1 from update `end` on, also where these are the same."""
    if end <= start:
        return jnp.where(t < end, 0.0, 1.0)
    return jnp.clip((t - start) / (end - start), 0.0, 1.0)


def _half_cosine(s: Array, end: float) -> Array:
    """From 1 at s = 0 to `end` at s = 1."""
    return end + (1 - end) / 2 * (1 + jnp.cos(jnp.pi * s))
