"""launch/local.sh: several processes of a run on one machine, restarted when they are stopped.  A script stands in."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOCAL = Path(__file__).parent.parent.parent / "launch" / "local.sh"
FAKE = """\
#!/usr/bin/env bash
# Logs how it was started; waits for a file to appear, or ends as the n-th line of `codes` says.
n=$(($(cat starts_$JAX_PROCESS_ID 2>/dev/null | wc -l) + 1))
printf '%s|' "$JAX_NUM_PROCESSES" "$XLA_FLAGS" "$@" >>starts_$JAX_PROCESS_ID
echo >>starts_$JAX_PROCESS_ID
echo $$ >pid_$JAX_PROCESS_ID
trap 'echo saved; exit 42' TERM INT
echo "start $n"
code=$(sed -n "${n}p" codes_$JAX_PROCESS_ID 2>/dev/null)
[ "$code" = wait ] && while [ ! -e go ]; do sleep 0.05; done
[ "$code" = wait ] && exit 0
exit "${code:-0}"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which `jaxrl-llm` is a script."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "jaxrl-llm"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    return tmp_path


def begin(*args: str, **how: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen([str(LOCAL), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def starts(number: int | str) -> list[str]:
    path = Path(f"starts_{number}")
    return path.read_text().splitlines() if path.exists() else []


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_know_of_each_other_and_words_stay_whole(here: Path) -> None:
    ran = begin("--procs", "2", "--sim-devices", "4", "--", "train", "a b.yaml", "x='q'")
    out, _ = ran.communicate(timeout=30)
    assert ran.returncode == 0
    flags = "--mine=1 --xla_force_host_platform_device_count=4"
    assert starts(0) == starts(1) == [f"2|{flags}|train|a b.yaml|x='q'|"]
    assert sorted(out.splitlines()) == ["[0] start 1", "[1] start 1"]


def test_after_a_kill_all_start_again(here: Path) -> None:
    for number in (0, 1):
        Path(f"codes_{number}").write_text("wait\n0\n")
    ran = begin("--procs", "2", "--backoff", "0", "--", "train", "c")
    until(lambda: Path("pid_0").exists() and Path("pid_1").exists())
    os.kill(int(Path("pid_1").read_text()), signal.SIGKILL)
    out, _ = ran.communicate(timeout=30)
    assert ran.returncode == 0
    assert (len(starts(0)), len(starts(1))) == (2, 2)
    assert "[0] saved" in out  # the other was stopped, not killed
    assert "local.sh: exit code 137; restart 1 of 10 in 0 s" in out


@pytest.mark.parametrize(
    ("send", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT)]
)
def test_a_sigterm_is_passed_on_and_ends_it(here: Path, send: Callable[[int, int], None], number: int) -> None:
    """Whether to the script alone or, as by a Ctrl-C and `kill %1`, to all of its group."""
    for each in (0, 1):
        Path(f"codes_{each}").write_text("wait\n")
    ran = begin("--procs", "2", "--", "train", "c", start_new_session=True)
    until(lambda: Path("pid_0").exists() and Path("pid_1").exists())
    send(ran.pid, number)
    out, _ = ran.communicate(timeout=30)
    assert ran.returncode == 42
    assert sorted(line for line in out.splitlines() if "saved" in line) == ["[0] saved", "[1] saved"]
    assert len(starts(0)) == 1


@pytest.mark.parametrize(("codes", "code", "count"), [("42\n43\n134\n0", 0, 4), ("2", 2, 1), ("42\n" * 9, 42, 3)])
def test_which_ends_are_tried_again(here: Path, codes: str, code: int, count: int) -> None:
    """42, 43 and 134 are; an error is not; and not for ever."""
    Path("codes_").write_text(codes)
    restarts = "3" if code == 0 else "2"
    ran = begin("--backoff", "0", "--restarts", restarts, "--", "train", "c")
    ran.communicate(timeout=30)
    assert ran.returncode == code
    assert len(starts("")) == count  # a process alone has no number


@pytest.mark.parametrize("args", [[], ["--procs", "0", "--", "x"], ["--procs", "two", "--", "x"], ["--prcs", "2"]])
def test_wrong_usage_is_said_in_one_line(here: Path, args: list[str]) -> None:
    ran = begin(*args)
    out, _ = ran.communicate(timeout=30)
    assert ran.returncode == 2
    assert out.startswith("error: ")
    assert len(out.splitlines()) == 1
    assert not starts(0)
