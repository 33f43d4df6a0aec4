"""Where a run shall fit: the devices that are here, or devices that are only described."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxrl_llm.config import Config
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.chips import CHIPS, Chip, chip_of, describe_devices, device_memory

USABLE = 0.94  # of a chip's nominal memory, which is what its runtime and fragmentation leave
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
UNITS |= {"TIB": 2**40}


@dataclass(frozen=True)
class Described:
    """A device that is not here: as much of one as a mesh and the choice of kernels ask for."""

    id: int
    platform: str
    device_kind: str
    process_index: int = 0


@dataclass(frozen=True)
class Target:
    """Devices, and how much memory each has."""

    devices: tuple[Any, ...]  # of jax, or Described
    limit: int | None  # bytes that a program may take of each; None: not known
    name: str
    chip: Chip | None = None  # what it can do at most, where that is known

    @property
    def compiles(self) -> bool:
        """Whether something can be compiled for them: they are here, or a compiler for them is."""
        return not isinstance(self.devices[0], Described)

    def adapt(self, config: Config) -> Config:
        """The config with the dtype that `auto` means there."""
        if self.devices[0].platform == jax.default_backend() or config.compute.dtype != "auto":
            return config
        dtype: Literal["float32", "bfloat16"] = "float32" if self.devices[0].platform == "cpu" else "bfloat16"
        return dataclasses.replace(config, compute=dataclasses.replace(config.compute, dtype=dtype))

    def of(self, n_devices: int) -> "Target":
        """So many of these devices."""
        first = self.devices[0]
        devices = tuple(Described(i, first.platform, first.device_kind) for i in range(n_devices))
        return Target(devices, self.limit, f"{n_devices} x {first.device_kind}", self.chip)


def make_target(chip: str | None = None, memory: str | None = None, n_devices: int | None = None) -> Target:
    """The devices that are here, or `n_devices` of a named chip; `memory` overrides what each has: `80GiB`.

    Raises:
        UserError: there is no such chip, or that is no size.
    """
    limit = None if memory is None else parse_bytes(memory)
    if n_devices is not None and n_devices < 1:
        raise UserError("--devices must be at least 1")
    if chip is not None:
        row = find_chip(chip)
        platform = "tpu" if row.name.startswith("TPU") else "gpu"
        devices = tuple(Described(i, platform, row.name) for i in range(n_devices or 1))
        return Target(devices, limit or int(USABLE * row.hbm_bytes), f"{len(devices)} x {row.name}", row)
    chip_here = chip_of(jax.devices()[0])
    here = Target(tuple(jax.devices()), limit or memory_here(), describe_devices(jax.devices()), chip_here)
    return here if n_devices in (None, len(here.devices)) else here.of(n_devices)


def memory_here() -> int | None:
    """Bytes that a program may take of each device here; None where they are not known, as on CPU."""
    memory, row = device_memory(), chip_of(jax.devices()[0])
    return memory.limit or (None if row is None else int(USABLE * row.hbm_bytes))


def find_chip(name: str) -> Chip:
    """The first chip of the table whose name begins with these words, in any case: `H100`, `v5e`, `A100 80GB`."""
    wanted = name.lower().removeprefix("tpu ").removeprefix("nvidia ")
    known = [row for _, row in CHIPS]
    found = [row for row in known if row.name.lower().removeprefix("tpu ").startswith(wanted)]
    if not found or not wanted:
        raise UserError(f"--chip {name}: no such chip\n  mend: one of {', '.join(row.name for row in known)}")
    return found[0]


def parse_bytes(text: str) -> int:
    """`80GiB`, `16 GB`, `1.5TiB` -> bytes.  Raises UserError where it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--memory {text}: expected a size, as in 80GiB or 16GB")
    return int(float(match[1]) * UNITS[match[2].upper()])
