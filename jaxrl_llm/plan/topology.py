"""TPU slices that are not here, with a compiler that is: libtpu compiles for them on any Linux machine."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel import xla_flags
from jaxrl_llm.plan.target import USABLE, Target, find_chip

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # Google Cloud's documentation, "TPU v5e", "TPU v6e"
SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
TOPOLOGIES = {
    "v5e": FLAT,
    "v6e": FLAT,
    "v5p": (*SOLID, "16x16x24"),
}  # of v5p the cubes; others of whole 4x4x4 are legal
LARGEST = 16 * 16 * 24  # chips of a slice of v5p

CACHED_FROM = "jax_persistent_cache_min_compile_time_secs"

# Without these libtpu asks the metadata of a machine that is none of Google's, and lets one process use it at a time.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_target(text: str) -> Target:
    """`v5e:16x16`, `v5p:4x4x8`, or several such slices: `2xv5e:16x16`; devices that can be compiled for, not run on.

    The compiler has the flags of a run on a TPU: the preset `tpu` of `xla_flags`, unless JAXRL_XLA says otherwise.

    Raises:
        UserError: there is no such topology (with the list), or no libtpu.
    """
    match = re.fullmatch(r"(?:(\d+)x)?(v\d\w*):(\d+(?:x\d+)*)", text)
    known = "\n".join(f"  {name}: {', '.join(shapes)}" for name, shapes in TOPOLOGIES.items())
    if match is None or not _is_legal(match[2], match[3]) or match[1] == "0":
        raise UserError(f"--topology {text}: no such slice\n  mend: one of these, or several: 2xv5e:16x16\n{known}")
    slices, chip = int(match[1] or 1), find_chip(match[2])
    devices = tuple(_devices(match[2], match[3], slices))
    return Target(devices, int(USABLE * chip.hbm_bytes), f"{text}, {len(devices)} x {chip.name}", chip)


def _is_legal(chip: str, shape: str) -> bool:
    if shape in TOPOLOGIES.get(chip, ()):
        return True
    sides = [int(n) for n in shape.split("x")]
    cubes = len(sides) == 3 and all(n and n % 4 == 0 for n in sides) and sides == sorted(sides)
    return chip == "v5p" and cubes and math.prod(sides) <= LARGEST


def rings(chip: str, sides: Sequence[int]) -> tuple[bool, ...]:
    """Of each of three axes whether its last chip has a link to the first.  Of v5p those of whole cubes have; of the
    others sides as long as a pod (Google Cloud's documentation: "3D torus", "2D torus"; what is less is a mesh).

    The compiler is to be told, or it takes all for open and sends in other ways than it would there.
    """
    if chip == "v5p":
        return (all(side % 4 == 0 for side in sides),) * 3
    return (*(side == 16 for side in sides), False)


def _devices(chip: str, shape: str, slices: int) -> list[Any]:
    from jax.experimental import topologies

    name, closed = f"{chip}:{shape}", rings(chip, [int(side) for side in shape.split("x")])
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if not os.environ.get(xla_flags.CHOICE):  # else runtime.start has set them
        xla_flags.merge(("tpu",))
    try:
        with elsewhere():
            more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
            if shape == "1x1":  # else hosts of four chips are taken for granted
                more["chips_per_host_bounds"] = (1, 1, 1)
            return list(topologies.get_topology_desc(name, platform="tpu", wrap=closed, **more).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"--topology {name}: {reason}\n"
            "  mend: pip install 'jax[tpu]', whose libtpu has the compiler (Linux on x86_64); it needs no TPU"
        ) from error


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Compile for devices that are not here: the cache keeps nothing of it, which could not be read back, and what
    libtpu's C++ writes to stderr while it looks for a TPU goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    seconds = getattr(jax.config, CACHED_FROM)
    os.dup2(nowhere, 2)
    jax.config.update(CACHED_FROM, math.inf)
    try:
        yield
    finally:
        jax.config.update(CACHED_FROM, seconds)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
