"""Hosts with other configs, data or meshes, or with a fault that one of them has alone: all stop, soon, and say why."""

import subprocess
import sys
import time
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from jaxrl_llm import alike
from jaxrl_llm.cli import main
from jaxrl_llm.config import load
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.distributed import refuse_unequal
from tests.launcher import environment, write_config
from tests.reliability.test_two_processes import addresses

ROOT = Path(__file__).parent.parent.parent
# What is at fault -> the overrides of each process.  The folder that a process is started in is its host's own disk.
FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "config": (["optim.weight_decay=0.1"], ["optim.weight_decay=0.5", "model.n_layers=3"]),
    "override": ([], ["modle.n_layers=3"]),
    "missing": (["data.path=only_here.txt"], ["data.path=only_here.txt"]),
    "content": (["data.path=text.txt"], ["data.path=text.txt"]),
    "mesh": (["mesh.fsdp=3"], ["mesh.fsdp=3"]),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What both processes have said of each fault, all of which are tried at once."""
    folder, started = tmp_path_factory.mktemp("hosts"), {}
    (folder / "elsewhere.txt").write_text("A text that all hosts see. " * 900)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    for name, overrides in FAULTS.items():
        config, shared = write_config(folder, name, folder / "elsewhere.txt"), addresses()
        shared |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / f"cache {name}")}
        started[name] = []
        for number in range(2):
            (here := folder / f"{name} {number}").mkdir()
            (here / "text.txt").write_text(f"Text of host {number}. " * 900)
            if number == 0:
                (here / "only_here.txt").write_text("One host has it. " * 900)
            command = [sys.executable, "-m", "jaxrl_llm", "train", str(config), *overrides[number]]
            env = environment(2) | shared | {"JAX_PROCESS_ID": str(number)}
            started[name].append(subprocess.Popen(command, env=env, cwd=here, **pipes))
    begun = time.monotonic()
    found = {}
    for name, processes in started.items():
        found[name] = [process.communicate(timeout=200)[0] for process in processes]
        assert [process.returncode for process in processes] == [2, 2], found[name]
        assert not (folder / name).exists(), "nothing was begun"
    assert time.monotonic() - begun < 90
    return found


def test_another_config_is_said_key_by_key(said: dict[str, list[str]]) -> None:
    for text in said["config"]:
        assert "the processes of this run do not agree:\n  model.n_layers: 2 on process 0, 3 on process 1" in text
        assert "  optim.weight_decay: 0.1 on process 0, 0.5 on process 1\n  mend:" in text


def test_other_data_are_named(said: dict[str, list[str]]) -> None:
    for text in said["content"]:
        assert "content of data: " in text
        assert "content of validation, held out: " in text


def test_a_mesh_for_other_devices_is_refused_by_all(said: dict[str, list[str]]) -> None:
    for text in said["mesh"]:
        assert "does not match the 4 cpu device(s)" in text
        assert "process 0 stopped" not in text


@pytest.mark.parametrize(
    ("fault", "why"), [("missing", "only_here.txt: no such file"), ("override", "modle: unknown key")]
)
def test_who_fails_alone_says_why_and_the_other_who_it_was(said: dict[str, list[str]], fault: str, why: str) -> None:
    left, failed = said[fault]
    assert why in failed
    assert "error: process 1 stopped with exit code 2; its output says why" in left
    assert "Traceback" not in left + failed


def test_hosts_with_other_devices_are_named() -> None:
    refuse_unequal({0: 4, 1: 4})
    with pytest.raises(UserError, match=r"process 0 has 4 cpu device\(s\), process 2 has 8"):
        refuse_unequal({2: 8, 0: 4, 1: 4})


def test_weights_are_told_apart_by_what_is_seen_of_them(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    found = []
    for text in (b"a" * 1000, b"b" + b"a" * 999, b"a" * 999 + b"b", b"a" * 999):
        file.write_bytes(text)
        found.append(alike.glimpse([file], ends=10))
    assert len({*found}) == 4


def test_a_disk_that_others_do_not_see_is_named(tmp_path: Path) -> None:
    two, at_once = patch.object(alike.jax, "process_count", lambda: 2), patch.object(alike, "LATE", 0.0)
    with two, at_once, patch.object(alike, "same_everywhere") as compared:
        alike.same_workdir(tmp_path)
        (tmp_path / "config.yaml").write_text("")
        alike.same_workdir(tmp_path)
    key = f"{tmp_path}, which must be storage that all hosts see"
    assert [call.args[0] for call in compared.call_args_list] == [{key: "no config.yaml"}, {key: "config.yaml"}]


def test_what_hosts_may_have_of_their_own_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A text. " * 900)
    config = load(write_config(tmp_path), ["logging.quiet=true", "data.workers=3"])
    two, alone = patch.object(alike.jax, "process_count", lambda: 2), patch.object(alike, "seen_by_all", lambda _: [4])
    with two, alone, patch.object(alike, "same_everywhere") as compared:
        alike.same_config(config)
    keys = compared.call_args.args[0]
    assert keys["model.n_layers"] == 2
    assert keys["checkpoints in workdir"] == [4]
    assert {"jaxrl_llm", "jax", "workdir", "data.path"} < keys.keys()
    assert not [key for key in keys if key.startswith("logging") or key in ("data.workers", "data.cache_dir")]


@pytest.mark.parametrize(("late", "seen"), [(30.0, [4, 8]), (-1.0, [4])])
def test_checkpoints_that_one_host_sees_late_are_waited_for(tmp_path: Path, late: float, seen: list[int]) -> None:
    (tmp_path / "4").mkdir()
    others = np.asarray([zlib.crc32(b"[4, 8]"), 0])  # what process 1 has sent, and sends

    def gathered(mine: np.ndarray) -> np.ndarray:
        (tmp_path / "8").mkdir(exist_ok=True)  # which this process sees from now on
        return np.stack([mine, others])

    with patch.object(alike.multihost_utils, "process_allgather", gathered), patch.object(alike, "LATE", late):
        assert alike.seen_by_all(tmp_path) == seen


def test_a_pipeline_has_one_driver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {**addresses(), "JAX_PROCESS_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "pipelines/quickstart"]) == 2
    assert "a pipeline is run by one process, and this is process 0 of 2 processes" in capsys.readouterr().err
