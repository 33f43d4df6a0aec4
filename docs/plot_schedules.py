"""Draws docs/schedules.png, every schedule with its defaults: `python docs/plot_schedules.py`."""

from pathlib import Path

import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from jaxrl_llm.training import schedules as s

TOTAL, WARMUP = 2000, 0.05  # a longer warm-up than the default's 1 %, to be seen
INK, BLUE, ORANGE, GREY = "#1f2933", "#2563eb", "#ea580c", "#9aa5b1"

PANELS: list[tuple[str, str, list[tuple[str, s.ScheduleConfig]]]] = [
    ("constant", "warm-up, then lr", [("", s.ConstantConfig(warmup=WARMUP))]),
    ("linear", "to min_ratio = 0", [("", s.LinearConfig(warmup=WARMUP))]),
    ("cosine", "to min_ratio = 0.1", [("", s.CosineConfig(warmup=WARMUP))]),
    ("cycles", "period: 500 of 2,000 steps", [("", s.CyclesConfig(warmup=0.1, period=TOTAL // 4))]),
    (
        "wsd",
        "decay = 0.2",
        [("shape: 1-sqrt", s.WsdConfig(warmup=WARMUP)), ("shape: linear", s.WsdConfig(warmup=WARMUP, shape="linear"))],
    ),
    ("inverse_sqrt", "lr·sqrt(W/t): ends at sqrt(warmup)", [("", s.InverseSqrtConfig(warmup=WARMUP))]),
    (
        "infinite_*",
        "cool-down to 70 %, constant to 80 %, anneal",
        [
            ("infinite_cosine", s.InfiniteCosineConfig(warmup=WARMUP)),
            ("infinite_inv_sqrt", s.InfiniteInvSqrtConfig(warmup=WARMUP)),
        ],
    ),
    (
        "infinite_*, continued",
        "a later phase: cooldown_end = 0",
        [
            ("constant_end: 0.8", s.InfiniteCosineConfig(cooldown_end=0.0, constant_end=0.8)),
            ("constant_end: 0", s.InfiniteCosineConfig(cooldown_end=0.0, constant_end=0.0)),
        ],
    ),
]


def panel(ax: Axes, title: str, note: str, lines: list[tuple[str, s.ScheduleConfig]]) -> None:
    """One schedule, or two that differ in one key."""
    steps = jnp.arange(TOTAL)
    for (label, config), colour, width in zip(
        lines, (BLUE, ORANGE), (3.2, 1.6), strict=False
    ):  # both seen where they meet
        ax.plot(steps / TOTAL, s.make_schedule(config, TOTAL)(steps) / config.lr, color=colour, lw=width, label=label)
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20)
    ax.text(0, 1.04, note, transform=ax.transAxes, fontsize=8.5, color="#52606d")
    ax.set(xlim=(0, 1), ylim=(0, 1.06), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.5, 1])
    ax.set_xticklabels(["0", "", "half", "", "end"])
    ax.set_yticklabels(["0", "", "lr"])
    ax.grid(color="#e4e7eb", lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8.5, labelcolor="#52606d")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    if len(lines) > 1:
        ax.legend(frameon=False, fontsize=8.5, loc="best", handlelength=1.4)


def main() -> None:
    """Eight panels on one page."""
    fig, axes = plt.subplots(2, 4, figsize=(13, 6), dpi=120)
    for ax, (title, note, lines) in zip(axes.flat, PANELS, strict=True):
        panel(ax, title, note, lines)
    fig.tight_layout(w_pad=2.0, h_pad=2.0)
    fig.savefig(Path(__file__).with_name("schedules.png"))


if __name__ == "__main__":
    main()
