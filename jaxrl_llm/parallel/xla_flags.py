"""Flags of the compiler as presets with names, merged with what the user has set, whose word is the last.

JAXRL_XLA chooses, with commas between: `gpu`, `tpu`, `deterministic`, `debug`; or `none`.  Default: the platform's.
"""

import importlib.util
import os
from collections.abc import Mapping, MutableMapping, Sequence

import jaxlib

from jaxrl_llm.errors import UserError

CHOICE = "JAXRL_XLA"
KNOWN = ((0, 10), (0, 12))  # versions of jaxlib that know all flags here; one that does not would abort

PRESETS: dict[str, dict[str, str]] = {  # name -> flag -> what for
    "gpu": {
        "--xla_gpu_enable_latency_hiding_scheduler=true": "starts collectives early and computes while they travel",
        "--xla_gpu_enable_pipelined_all_gather=true": "gathers the next scanned layer's weights during this one",
        "--xla_gpu_enable_pipelined_reduce_scatter=true": "scatters a scanned layer's gradients during the next one",
        "--xla_gpu_enable_pipelined_all_reduce=true": "the same for gradients that are summed over `data`",
    },
    "tpu": {
        "--xla_enable_async_all_gather=true": "gathering is started and awaited apart, so that it can overlap",
        "--xla_tpu_enable_async_collective_fusion=true": "fuses collectives with the computation that hides them",
        "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true": "that for the weights that fsdp gathers",
        "--xla_tpu_enable_async_collective_fusion_multiple_steps=true": "over several steps of a ring",
        "--xla_tpu_overlap_compute_collective_tc=true": "the tensor core computes while it sends",
        "--xla_tpu_enable_data_parallel_all_reduce_opt=true": "slices sum gradients while they still compute",
        "--xla_tpu_data_parallel_opt_different_sized_ops=true": "that for weights of all sizes",
    },
    "deterministic": {
        "--xla_gpu_deterministic_ops=true": "no sums whose order depends on which thread is first",
        "--xla_gpu_autotune_level=0": "kernels are chosen by rule: by timing, the next start may choose others",
    },
    "debug": {
        "--xla_dump_to=xla_dump": "writes what was compiled into a folder here",
        "--xla_dump_hlo_as_text=true": "for people to read",
        "--xla_gpu_enable_command_buffer=": "launches each kernel by itself, so that a trace or a fault names it",
    },
}


def choose(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The presets to use: the user's, else the platform's.  Raises UserError where there is no such preset."""
    text = env.get(CHOICE)
    if not text:
        return platform(env) if known() else ()
    names = tuple(name.strip() for name in text.split(","))
    if names == ("none",):
        return ()
    if unknown := [name for name in names if name not in PRESETS]:
        raise UserError(f"{CHOICE}={text}: no preset {unknown[0]!r}\n  mend: some of {', '.join(PRESETS)}, or none")
    return names


def platform(env: Mapping[str, str]) -> tuple[str, ...]:
    """The preset of what jax will compute on, as far as that is known before it looks for devices."""
    asked = env.get("JAX_PLATFORMS", "").split(",")[0]
    if asked:
        return {"cuda": ("gpu",), "gpu": ("gpu",), "tpu": ("tpu",)}.get(asked, ())
    if env.get("TPU_ML_PLATFORM") == "JAX":  # jax sets it on import, where it finds chips and libtpu
        return ("tpu",)
    plugin = any(importlib.util.find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin"))
    return ("gpu",) if plugin and os.path.exists("/dev/nvidia0") else ()


def known(version: Sequence[int] = jaxlib.version.__version_info__) -> bool:
    """Whether this jaxlib is one of those that were seen to know the flags."""
    return KNOWN[0] <= tuple(version[:2]) <= KNOWN[1]


def merge(names: Sequence[str], env: MutableMapping[str, str] = os.environ) -> str | None:
    """Put the presets' flags into `env`, but for those that the user has set.  To be called before jax has devices.

    Returns:
        One line that says what was set; None where nothing was.
    """
    added, kept = [], []
    for name in names:
        variable = "LIBTPU_INIT_ARGS" if name == "tpu" else "XLA_FLAGS"
        theirs = env.get(variable, "")
        if theirs and not theirs.lstrip().startswith("-"):
            kept.append(f"{variable}={theirs}")  # a file of flags, to which nothing can be added
            continue
        set_ = {word.split("=")[0]: word for word in theirs.split()}
        for flag in PRESETS[name]:
            key = flag.split("=")[0]
            if key not in set_:
                added.append(flag)
                env[variable] = f"{env.get(variable, '')} {flag}".strip()
            elif set_[key] != flag:
                kept.append(set_[key])
    if not (added or kept):
        return None
    return f"XLA flags ({CHOICE}={','.join(names)}): {' '.join(added) or 'none'}" + (
        f"; yours stay: {' '.join(kept)}" if kept else ""
    )
