"""The table of chips against the names that devices give themselves, and memory accounts."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.parallel.chips import CHIPS, chip_of, describe_devices, device_memory, peak_flops


def device(kind: str, **stats: int) -> Any:
    return SimpleNamespace(device_kind=kind, memory_stats=lambda: stats or None)


KNOWN = {
    "NVIDIA B200": 2250,
    "NVIDIA H200": 989.4,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA A100-SXM4-40GB": 312,
    "A100-SXM4-40GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362.05,
    "NVIDIA A10G": 70,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71,
    "Tesla T4": 65,
    "Tesla V100-SXM2-16GB": 125,
    "Tesla V100-PCIE-32GB": 112,
    "TPU v2": 23,
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 1153.5,
}


@pytest.mark.parametrize(("kind", "tflops"), KNOWN.items())
def test_known_chips(kind: str, tflops: float) -> None:
    chip = chip_of(device(kind))
    assert chip is not None
    assert chip.bf16_flops == tflops * 1e12
    assert 8 * 2**30 <= chip.hbm_bytes <= 192 * 2**30
    assert 300e9 <= chip.hbm_bandwidth <= 8000e9


def test_every_row_is_reached_by_one_name_alone() -> None:
    names = [kind.removeprefix("NVIDIA ").removeprefix("Tesla ") for kind in KNOWN]
    names += ["H200 NVL", "V100-SXM2-32GB", "V100-PCIE-16GB"]
    rows = [[pattern for pattern, _ in CHIPS if re.fullmatch(pattern, name)] for name in names]
    assert all(len(matches) == 1 for matches in rows)
    assert {pattern for matches in rows for pattern in matches} == {pattern for pattern, _ in CHIPS}


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GH200 480GB",
        "NVIDIA L40",
    ],
)
def test_an_unknown_chip_has_no_peak(kind: str) -> None:
    assert chip_of(device(kind)) is None


def test_peak_is_of_all_devices_or_none() -> None:
    assert peak_flops([device("NVIDIA H200")] * 4) == 4 * 989.4e12
    assert peak_flops([device("NVIDIA H200"), device("NVIDIA H900")]) is None
    assert peak_flops([]) is None


def test_devices_in_words() -> None:
    assert describe_devices([device("NVIDIA H200")] * 8) == "8 x NVIDIA H200"
    assert describe_devices(jax.devices()) == f"{jax.device_count()} x cpu"


def test_memory_of_the_fullest_device() -> None:
    light = device("x", bytes_in_use=70, peak_bytes_in_use=80, bytes_limit=100)
    heavy = device("x", bytes_in_use=10, peak_bytes_in_use=90, bytes_limit=100)
    memory = device_memory([light, heavy])
    assert (memory.of, memory.in_use, memory.peak, memory.limit) == ("device", 10, 90, 100)


def test_memory_of_a_cpu_is_the_process() -> None:
    before = device_memory()
    block = np.ones(2**26, np.uint8)  # 64 MiB, touched
    after = device_memory()
    assert (after.of, after.limit) == ("process", None)
    assert after.in_use - before.in_use > 0.9 * block.nbytes
    assert after.peak >= after.in_use
