"""Figures that every measurement gives, as a table has them."""

from jax.sharding import Mesh

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.parallel.chips import describe_devices, device_memory, peak_flops
from jaxrl_llm.training.console import digits

Figures = dict[str, str]  # label -> figure


def describe_model(config: Config, parts: Assembly) -> str:
    """Its preset and size."""
    return f"{config.model.preset or 'own'}, {parts.n_params:,} parameters"


def describe_compute(config: Config) -> str:
    """How a step is computed."""
    return f"{config.compute.layers}, remat {config.compute.remat}, attention {config.compute.attention}"


def describe_mesh(mesh: Mesh) -> str:
    """Its devices."""
    return describe_devices(list(mesh.devices.flat))


def speed(flops: float, mesh: Mesh) -> Figures:
    """Of so many FLOP/s over all devices."""
    peak = peak_flops(list(mesh.devices.flat))
    return {
        "TFLOP/s": digits(flops / 1e12),
        "share of peak": "unknown chip" if peak is None else f"{100 * flops / peak:.1f} %",
    }


def peak_memory() -> str:
    """Of the fullest device, since the process started."""
    memory = device_memory()
    return f"{memory.peak / 2**30:.2f} GiB of the {memory.of}"
