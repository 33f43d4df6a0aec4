"""Runs chat templates, which are programs by strangers, in a process of their own that the system holds to limits.

Jinja's sandbox keeps a template from Python's internals, but not from running for ever or filling the memory.  The
process that renders (worker.py) has a limit of memory, and one of processor time for each text; past it, it is
killed, whatever it was doing, and the next request starts another.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm.errors import UserError

SECONDS = 2.0  # of processor time for one text; a template takes about a ten-thousandth of that
MEMORY = 1 << 30  # bytes
OUTPUT = 1 << 24  # characters of one text
WORKER = Path(__file__).with_name("worker.py")


def render(source: str, calls: Sequence[Mapping[str, Any]]) -> list[str | UserError]:
    """The text that a template makes of each call's variables, or what went wrong with it.

    The variables are plain JSON.  An error comes back as a UserError without the template's name.
    """
    return _sandbox.render(source, calls)


class _Sandbox:
    """The process, started when first needed; a fork of this process gets its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def render(self, source: str, calls: Sequence[Mapping[str, Any]]) -> list[str | UserError]:
        """See the function; where a call ends the process, those after it have the same error."""
        with self._lock:
            return self._ask(source, calls)

    def _ask(self, source: str, calls: Sequence[Mapping[str, Any]]) -> list[str | UserError]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"source": source, "calls": calls, "seconds": SECONDS, "output": OUTPUT}
        results: list[str | UserError] = []
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for _ in calls:
                result = json.loads(process.stdout.readline())
                results.append(result["text"] if "text" in result else UserError(result["error"]))
        except (OSError, ValueError):  # the pipe broke, or ended within a line
            reason = _reason(self._end(process))
            results += [UserError(reason)] * (len(calls) - len(results))
        except BaseException:  # Ctrl-C in the middle: what comes next from the process would answer this request
            self._end(process)
            raise
        return results

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            # -P: or the folder of the worker, with its modules' common names, would be searched first.
            command = [sys.executable, "-P", str(WORKER), str(MEMORY)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
            )
            self._owner = os.getpid()
        return self._process

    def _end(self, process: "subprocess.Popen[str]") -> int:
        """End the process, if it has not ended, and return its status."""
        self._process = None
        process.kill()
        with contextlib.suppress(OSError):  # what it has not read is lost
            process.communicate()
        return process.wait()

    def close(self) -> None:
        """End the process, if there is one and it is ours."""
        if self._process is not None and self._owner == os.getpid():
            self._end(self._process)


def _reason(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it ran for more than {SECONDS:g} s and was stopped"
    return f"it needed more than {MEMORY >> 20:,} MiB of memory, or broke down (status {status})"


_sandbox = _Sandbox()
atexit.register(_sandbox.close)
