"""What an accelerator can do at most, and how much of its memory is in use.

One row per chip, from the vendor's datasheet (of links one way: half of NVLink's, the Gbit/s of a TPU's): the
denominator of "share of peak", and what `plan` fits models into.
Peaks are dense: a datasheet that quotes 2:4 sparsity is halved.  Rows describe one jax device.
"""

import re
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

TERA, GIGA, GIB = 1e12, 1e9, 2**30


@dataclass(frozen=True)
class Chip:
    """The ceilings of one jax device."""

    name: str
    bf16_flops: float  # dense matrix-unit peak with float32 accumulation, FLOP/s
    hbm_bytes: int  # nominal; what a program may take is a few percent less
    hbm_bandwidth: float  # bytes/s
    link_bandwidth: float | None = None  # bytes/s that it sends to others of its slice or machine, all links together


def _chip(name: str, tflops: float, gib: float, gb_per_s: float, link: float | None = None) -> Chip:
    return Chip(name, tflops * TERA, int(gib * GIB), gb_per_s * GIGA, link and link * GIGA)


# Pattern that the whole `device_kind`, without a leading "NVIDIA " or "Tesla ", matches -> chip.  A slice of a card
# (MIG) or a laptop's namesake matches nothing: better no share of peak than a wrong one.
CHIPS: tuple[tuple[str, Chip], ...] = (
    # NVIDIA DGX B200 datasheet, an eighth of the system: 36 PFLOP/s FP8 dense (bf16 is half), 1,440 GB, 64 TB/s.
    (r"B200", _chip("B200", 2250, 180, 8000, 900)),
    # NVIDIA H200 datasheet: SXM 1,979 with sparsity, NVL 1,671 with sparsity.
    (r"H200", _chip("H200 SXM", 989.4, 141, 4800, 450)),
    (r"H200 NVL", _chip("H200 NVL", 835.5, 141, 4800, 450)),
    # NVIDIA H100 datasheet: SXM 1,979, PCIe 1,513, NVL 1,671 with sparsity.
    (r"H100 80GB HBM3", _chip("H100 SXM", 989.4, 80, 3350, 450)),
    (r"H100 PCIe", _chip("H100 PCIe", 756.5, 80, 2000)),
    (r"H100 NVL", _chip("H100 NVL", 835.5, 94, 3900)),
    # NVIDIA A100 datasheet: 312 dense in every form factor.
    (r"A100-(SXM4?|PCIE)-40GB", _chip("A100 40GB", 312, 40, 1555, 300)),
    (r"A100-SXM4?-80GB", _chip("A100 80GB SXM", 312, 80, 2039, 300)),
    (r"A100 80GB PCIe", _chip("A100 80GB PCIe", 312, 80, 1935)),
    # NVIDIA L4 datasheet (242 with sparsity), L40S datasheet (362 dense), A10G datasheet (70 dense).
    (r"L4", _chip("L4", 121, 24, 300)),
    (r"L40S", _chip("L40S", 362.05, 48, 864)),
    (r"A10G", _chip("A10G", 70, 24, 600)),
    # NVIDIA Ada and GA102 architecture whitepapers: bf16 with float32 accumulation, dense.
    (r"GeForce RTX 4090", _chip("RTX 4090", 165.2, 24, 1008)),
    (r"GeForce RTX 3090", _chip("RTX 3090", 71, 24, 936)),
    # NVIDIA T4 and V100 datasheets.  Neither has bf16 units: the fp16 tensor-core peak stands in.
    (r"T4", _chip("T4", 65, 16, 320)),
    (r"V100-SXM[23](-LS)?-16GB", _chip("V100 SXM 16GB", 125, 16, 900)),
    (r"V100-SXM[23](-LS)?-32GB", _chip("V100 SXM 32GB", 125, 32, 900)),
    (r"V100-PCIE-16GB", _chip("V100 PCIe 16GB", 112, 16, 900)),
    (r"V100-PCIE-32GB", _chip("V100 PCIe 32GB", 112, 32, 900)),
    # Google Cloud TPU documentation, "System architecture".  On v2, v3 and 7x a jax device is one of a chip's two
    # cores, so the row is half of 46, 123 and 2,307 TFLOP/s.
    (r"TPU v2", _chip("TPU v2 core", 23, 8, 350)),
    (r"TPU v3", _chip("TPU v3 core", 61.5, 16, 450)),
    (r"TPU v4", _chip("TPU v4", 275, 32, 1228, 300)),
    (r"TPU v5( lite|e)", _chip("TPU v5e", 197, 16, 819, 200)),
    (r"TPU v5p?", _chip("TPU v5p", 459, 95, 2765, 600)),
    (r"TPU v6( lite|e)", _chip("TPU v6e", 918, 32, 1638, 448)),
    (r"TPU7x?", _chip("TPU 7x core", 1153.5, 96, 3690)),
)


def chip_of(device: jax.Device) -> Chip | None:
    """The row of CHIPS for this device; None where it is unknown, such as a CPU."""
    kind = device.device_kind.removeprefix("NVIDIA ").removeprefix("Tesla ")
    return next((chip for pattern, chip in CHIPS if re.fullmatch(pattern, kind)), None)


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Dense bf16 peak of all these devices together, FLOP/s; None where one of them is unknown."""
    chips = [chip_of(device) for device in devices]
    known = [chip.bf16_flops for chip in chips if chip is not None]
    return sum(known) if known and len(known) == len(chips) else None


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """For people: `8 x NVIDIA H200`, `8 x cpu`."""
    counts = Counter(device.device_kind for device in devices)
    return ", ".join(f"{n} x {kind}" for kind, n in counts.items())


@dataclass(frozen=True)
class Memory:
    """Bytes of memory.  A CPU device keeps no account of its own, so there it is the whole process that is measured."""

    of: Literal["device", "process"]
    in_use: int
    peak: int  # since the process started
    limit: int | None  # what the allocator may take; None for a process


def device_memory(devices: Sequence[jax.Device] | None = None) -> Memory:
    """Memory of the fullest of this process's devices, or the resident set of the process on CPU."""
    devices = jax.local_devices() if devices is None else devices
    accounts = [stats for stats in (device.memory_stats() for device in devices) if stats]
    if not accounts:
        return _process_memory()
    fullest = max(accounts, key=lambda stats: stats.get("peak_bytes_in_use", stats["bytes_in_use"]))
    in_use = fullest["bytes_in_use"]
    return Memory("device", in_use, fullest.get("peak_bytes_in_use", in_use), fullest.get("bytes_limit"))


def _process_memory() -> Memory:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there and KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    statm = Path("/proc/self/statm")
    in_use = int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak
    return Memory("process", in_use, max(peak, in_use), None)
