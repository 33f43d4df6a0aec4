"""`env`: what a report of a fault should say about the machine."""

import argparse
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from jaxrl_llm import __version__
from jaxrl_llm.verbs import print_table

HELP = "Versions, devices, memory and folders: what a report of a fault should say about the machine."

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "pydantic", "numpy")
EXTRAS = {  # extra -> the package that shows it is there
    "cuda12": "jax-cuda12-plugin",
    "cuda13": "jax-cuda13-plugin",
    "tpu": "libtpu",
    "wandb": "wandb",
    "gcs": "gcsfs",
    "dev": "pytest",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from jaxrl_llm.parallel import runtime

    runtime.start()
    print_table([*_software(), *_devices(), *_machine()])
    return 0


def _software() -> Iterator[tuple[str, str]]:
    yield "jaxrl_llm", f"{__version__} in {Path(__file__).parent.parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, _version(package) or "not installed"
    yield (
        "extras",
        ", ".join(f"{name} ({there})" for name, package in EXTRAS.items() if (there := _version(package))) or "none",
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    import jax

    try:
        devices = jax.local_devices()
    except RuntimeError as error:  # a platform that was asked for and is not there
        yield "devices", f"none: {error}"
        return
    first = devices[0]
    yield "devices", f"{len(devices)} x {first.device_kind} ({first.platform}), {jax.process_count()} process(es)"
    stats = first.memory_stats() or {}
    if "bytes_limit" in stats:
        used, limit = stats.get("bytes_in_use", 0) / 2**30, stats["bytes_limit"] / 2**30
        yield "device memory", f"{limit:.1f} GiB each, {used:.1f} in use"
    yield "compilation cache", jax.config.values["jax_compilation_cache_dir"] or "off"


def _machine() -> Iterator[tuple[str, str]]:
    from jaxrl_llm.config.layers import packaged_configs

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "host", f"{os.cpu_count()} CPU cores, {total / 2**30:.1f} GiB memory"
    yield "cache", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrl_llm")
    yield "configs", str(packaged_configs())
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            yield name, os.environ[name]
