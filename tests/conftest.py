"""Shared fixtures: 8 simulated CPU devices, full float32 matmuls, the compilation cache, and the real data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.tiny import Runs

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + " --xla_cpu_enable_concurrency_optimized_scheduler=false"  # see runtime.start
    + " --xla_backend_optimization_level=0"  # models are tiny here: compiling them takes longer than running them
)

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # of this process and of those that tests start
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # libtpu, which compiles for TPUs that are not here, asks no cloud about them

import jax
import pytest

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; its absence skips the test."""
    path = Path(__file__).parent.parent.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real data (../shared/data) is not here")
    return path


@pytest.fixture(scope="session")
def tpu() -> Callable[..., list[Any]]:
    """Devices of a TPU slice that is not here, to compile for: `tpu("v5e:2x4", n_slices=2)`; skips without libtpu."""
    pytest.importorskip("libtpu", reason="libtpu, the compiler for TPUs, is not installed: pip install 'jax[tpu]'")
    from jaxrl_llm.plan import topology_target

    return lambda name, n_slices=1: list(topology_target(f"{n_slices}x{name}").devices)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> "Runs":
    """Tiny runs of every stage, each trained when it is first asked for."""
    from tests.tiny import Runs

    return Runs.new(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token stores built by tests stay out of the user's cache, and are shared by the session's tests."""
    base = tmp_path_factory.getbasetemp() / "xdg_cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
