"""JAX made ready for a program of ours: compiler flags, compilation cache, quiet libraries, other processes joined."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import jax

from jaxrl_llm.parallel import xla_flags
from jaxrl_llm.parallel.distributed import is_main, join

# Loaded from the compilation cache, programs of several simulated devices may take collectives that do not depend on
# each other in different orders on different devices, and wait for ever; without this scheduler they have not.
SIMULATED, SCHEDULER = "--xla_force_host_platform_device_count", "--xla_cpu_enable_concurrency_optimized_scheduler"


def start() -> None:
    """To be called once, before anything else of jax.

    Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, else in $XDG_CACHE_HOME/jaxrl_llm/compiled (~/.cache), so
    that the second start of a run compiles next to nothing.  Flags of the compiler: see `xla_flags`.

    Raises:
        UserError: see `distributed.join`, `xla_flags.choose`.
    """
    presets = xla_flags.choose()
    flags_line = xla_flags.merge(presets)
    if SIMULATED in (flags := os.environ.get("XLA_FLAGS", "")) and SCHEDULER not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SCHEDULER}=false"
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells of every save
    if "debug" in presets:
        jax.config.update("jax_enable_compilation_cache", False)  # what is not compiled is not dumped
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    cluster = join()
    if flags_line and (cluster is None or is_main()):
        print(flags_line, file=sys.stderr, flush=True)


def in_turn(results: Any) -> None:
    """Wait for the results where one machine's threads play several devices.

    Two programs in flight there can take each other's threads and wait for ever in their collectives; real devices have
    queues of their own, and nothing is waited for.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.block_until_ready(results)


def cache_home() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/jaxrl_llm, else ~/.cache/jaxrl_llm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrl_llm"
