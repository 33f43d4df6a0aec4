"""One process of several that ends with an error tells the others, and they end too, though they wait for it.

Who computes together waits for the others inside of the device's program, where no exception of theirs is heard.  So
each process has a thread that looks, in the store of the coordinator that all have joined, for one that has failed.
One that was killed, or whose machine is gone, says nothing: jax notices, after 100 seconds without a sign of life,
aborts the others (exit code 134) and names it; or a transfer to it fails before, which is 43.
"""

import atexit
import os
import sys
import threading
import time

import jax
from jax._src import distributed  # the store has no public name

from jaxrl_llm.errors import Preempted

FAILED = "jaxrl_llm/failed/"  # + number of the process -> its exit code
LOOK, GRACE, MEET = 1.0, 5.0, 15  # seconds between two looks; to fail by oneself; to wait for the others at the end
CLOSE = 60  # the last two where all were told to stop: each has saved and ends by itself, some with more files to close

_over = threading.Event()  # nobody has to look any more
_leaving = threading.Lock()  # held by who ends this process


def look_out() -> None:
    """Look for processes that failed, from now on.  To be called once, when jax has joined them."""
    thread = threading.Thread(target=_look, name="other processes", daemon=True)

    def part() -> None:
        try:
            jax.distributed.shutdown()  # jax would do so later; it waits for the others, and some may fail until then
        finally:
            _over.set()
            thread.join()

    atexit.register(part)
    thread.start()


def leave(code: int) -> None:
    """End this process with an exit code other than 0, and those that it has joined; returns where there are none.

    To be called when the reason was said.
    """
    number, client = distributed.global_state.process_id, distributed.global_state.client
    if client is None:
        return
    if not _leaving.acquire(blocking=False):
        time.sleep(2 * CLOSE)  # the other thread ends us before
    _over.set()
    try:
        client.key_value_set(f"{FAILED}{number}", str(code), allow_overwrite=True)
        client.wait_at_barrier(FAILED, 1000 * (CLOSE if code == Preempted.exit_code else MEET))
    except Exception:  # the coordinator is gone, or somebody did not come: then jax ends who is left
        pass
    if number == 0:
        time.sleep(LOOK)  # the coordinator is in this process, and whom it leaves aborts
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an orderly exit would wait for the others, of which some hang


def is_loss(error: Exception) -> bool:
    """Whether it says that a process with which this one computes is gone."""
    words = ("Gloo", "NCCL", "coordination service", "UNAVAILABLE")
    several = distributed.global_state.client is not None
    return several and isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in words)


def _look() -> None:
    """Until somebody has failed, or all is over."""
    client, found = distributed.global_state.client, list[tuple[str, str]]()
    assert client is not None, "jax has joined the others"
    while not found:
        if _over.wait(LOOK):
            return
        try:
            found = client.key_value_dir_get(FAILED)
        except Exception:  # the coordinator is gone; jax says so
            return
    code = max(int(value) for _, value in found)
    if _over.wait(CLOSE if code == Preempted.exit_code else GRACE):  # we end as well, and have said why
        return
    who = ", ".join(sorted(name.removeprefix(FAILED) for name, _ in found))
    print(f"error: process {who} stopped with exit code {code}; its output says why", file=sys.stderr, flush=True)
    for number in (1, 2):  # what transfers to the others now fail with is no news
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    leave(code)
