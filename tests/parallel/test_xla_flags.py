"""Presets of compiler flags: known to the compiler, chosen by platform or by the user, whose own flags stay."""

import subprocess
import sys

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.xla_flags import PRESETS, choose, known, merge
from tests.launcher import environment


def test_the_compiler_knows_every_flag() -> None:
    """An unknown one in XLA_FLAGS ends the process.  Those of TPUs are for libtpu, which is not here."""
    flags = " ".join(flag for name, flags in PRESETS.items() if name != "tpu" for flag in flags)
    for text, knows in ((flags, True), (flags + " --xla_gpu_no_such_flag=1", False)):
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        ended = subprocess.run(command, env=environment() | {"XLA_FLAGS": text}, capture_output=True, text=True)
        assert (ended.returncode == 0) == knows, ended.stderr
        assert ("no_such_flag" in ended.stderr) == (not knows)


def test_every_flag_has_a_reason() -> None:
    for flags in PRESETS.values():
        for flag, reason in flags.items():
            assert flag.startswith("--xla_")
            assert "=" in flag
            assert len(reason) > 10


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"JAX_PLATFORMS": "cpu"}, ()),
        ({"JAX_PLATFORMS": "cuda,cpu"}, ("gpu",)),
        ({"JAX_PLATFORMS": "tpu"}, ("tpu",)),
        ({"TPU_ML_PLATFORM": "JAX"}, ("tpu",)),
        ({"JAX_PLATFORMS": "cpu", "JAXRL_XLA": "gpu, deterministic"}, ("gpu", "deterministic")),
        ({"JAX_PLATFORMS": "cuda", "JAXRL_XLA": "none"}, ()),
    ],
)
def test_presets_are_chosen(env: dict[str, str], expected: tuple[str, ...]) -> None:
    assert choose(env) == expected


@pytest.mark.parametrize("text", ["fast", "gpu,none", "gpu,"])
def test_an_unknown_preset_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="some of gpu, tpu, deterministic, debug, or none"):
        choose({"JAXRL_XLA": text})


def test_another_jaxlib_gets_no_flags_unasked() -> None:
    assert known((0, 11, 3))
    assert not known((0, 13, 0))
    assert not known((0, 9, 2))


def test_what_the_user_sets_stays() -> None:
    env = {"XLA_FLAGS": "--xla_gpu_autotune_level=2 --xla_mine=1"}
    line = merge(("deterministic",), env)
    assert env["XLA_FLAGS"] == "--xla_gpu_autotune_level=2 --xla_mine=1 --xla_gpu_deterministic_ops=true"
    assert line == (
        "XLA flags (JAXRL_XLA=deterministic): --xla_gpu_deterministic_ops=true; yours stay: --xla_gpu_autotune_level=2"
    )
    assert merge((), env) is None


def test_flags_of_tpus_go_to_libtpu() -> None:
    env = {"LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=false"}
    merge(("tpu",), env)
    assert set(env) == {"LIBTPU_INIT_ARGS"}
    assert len(env["LIBTPU_INIT_ARGS"].split()) == len(PRESETS["tpu"])
    assert env["LIBTPU_INIT_ARGS"].startswith("--xla_enable_async_all_gather=false ")


def test_a_file_of_flags_is_left_alone() -> None:
    env = {"XLA_FLAGS": "flags.txt"}
    assert merge(("gpu",), env) == "XLA flags (JAXRL_XLA=gpu): none; yours stay: XLA_FLAGS=flags.txt"
    assert env == {"XLA_FLAGS": "flags.txt"}


def test_they_are_set_before_jax_begins() -> None:
    script = (
        "from jaxrl_llm.parallel import runtime; runtime.start(); import jax, os; jax.devices();"
        "print(os.environ['XLA_FLAGS'], jax.config.jax_enable_compilation_cache)"
    )
    env = environment() | {"JAXRL_XLA": "deterministic,debug"}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert "--xla_gpu_deterministic_ops=true" in ended.stdout
    assert ended.stdout.endswith("False\n")  # what comes out of the cache is not dumped
    assert "XLA flags (JAXRL_XLA=deterministic,debug): --xla_gpu_deterministic_ops=true" in ended.stderr
