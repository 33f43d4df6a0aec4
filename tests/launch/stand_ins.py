"""Scripts that stand in for the tools of clouds and clusters, and note how they were called."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
TOOLS = """
bash cat chmod cp cut date dirname env false grep gzip head hostname install ln mkdir mktemp mountpoint mv nohup rm sed
seq setsid sleep sort tail tar timeout touch tr true wc
"""  # all that a script finds: a gcloud of the machine itself is never called
ODD = [
    "train",
    "a b.yaml",
    "x='q'",
    'y="d"',
    "z=$HOME",
    "w=$(date) `date`",
    "v={a: [1, 2]}",
    "u=a\\b & c; *",
    "t=ä\n2",
    "",
]
NOTE = r"""#!/usr/bin/env bash
{ printf '%s\0' "${0##*/}" "$@"; printf '\036'; } >>"$CALLS"
"""


class Desk:
    """A directory with the PATH and the HOME of a script under test."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.home, self.calls_file = root, root / "bin", root / "home", root / "calls"
        self.bin.mkdir()
        self.home.mkdir()
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.env = {"PATH": str(self.bin), "HOME": str(self.home), "CALLS": str(self.calls_file), "LC_ALL": "C.UTF-8"}

    def stand_in(self, name: str, body: str = "") -> None:
        """A tool that notes its arguments, then does what `body` says."""
        (self.bin / name).write_text(NOTE + body)
        (self.bin / name).chmod(0o755)

    def will_say(self, what: str, *lines: str) -> None:
        """What `pop WHAT` of a stand-in says, a line a time; the last for ever."""
        (self.root / what).write_text("".join(f"{line}\n" for line in lines))

    def calls(self) -> list[list[str]]:
        """The calls so far, each as its words."""
        if not self.calls_file.exists():
            return []
        return [call.split("\0")[:-1] for call in self.calls_file.read_text().split("\036")[:-1]]

    def run(self, script: str, *args: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run a script of launch/ to its end; what it wrote."""
        ran = subprocess.run(
            [str(LAUNCH / script), *args],
            cwd=self.root,
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        assert ran.returncode == code, ran.stdout
        return ran.stdout


POP = r"""
pop() { # file
  local line; line=$(head -n 1 "$DESK/$1" 2>/dev/null)
  [ "$(wc -l <"$DESK/$1" 2>/dev/null || echo 0)" -le 1 ] || sed -i 1d "$DESK/$1"
  printf '%s' "$line"
}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty desk."""
    made = Desk(tmp_path)
    made.env["DESK"] = str(tmp_path)
    return made


def in_bash(words: str) -> list[str]:
    """The words that bash makes of a line."""
    script = f"printf '%s\\0' {words}"
    said = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    return said.stdout.split("\0")[:-1]


def until(holds: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 15.0) -> None:
    """Wait for something that happens while the process runs."""
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
