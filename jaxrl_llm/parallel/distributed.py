"""Several processes as one: joined at the start, of one mind, process 0 speaks and writes for all."""

import json
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.clusters import Cluster, find_cluster
from jaxrl_llm.parallel.ends import look_out

TIMEOUT, PATIENCE = "JAXRL_JOIN_TIMEOUT", 300  # seconds that processes wait for one another at the start

T = TypeVar("T")


def join() -> Cluster | None:
    """Join the other processes, when the environment says that there are any; says so in one line.

    To be called before anything else of jax.  Where the others do not come in time, the process ends with a UserError's
    message and exit code.

    Returns:
        Whom it joined; None of a process alone.

    Raises:
        UserError: what the environment says is no whole, or jax cannot join.
    """
    cluster = find_cluster(os.environ)
    if cluster is None or cluster.count == 1:
        return None
    seconds = patience()
    print(cluster, file=sys.stderr, flush=True)
    told = None not in (cluster.address, cluster.number)  # else jax asks the launcher
    try:
        with watch(cluster, seconds):
            jax.distributed.initialize(
                cluster.address,
                cluster.count if told else None,
                cluster.number if told else None,
                cluster.devices,
                "deactivate" if told else None,
                initialization_timeout=seconds + 60,  # ours is over first
            )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{cluster}: {reason}\n  mend: see {cluster.where}") from error
    look_out()
    refuse_unequal(Counter(device.process_index for device in jax.devices()))
    return cluster


def refuse_unequal(devices: Mapping[int, int]) -> None:
    """A UserError where one process (number -> devices) has more devices than another: no mesh is cut so."""
    other = next((number for number in sorted(devices) if devices[number] != devices[0]), None)
    if other is not None:
        raise UserError(
            f"process 0 has {devices[0]} {jax.default_backend()} device(s), process {other} has {devices[other]}: "
            "all must have as many\n  mend: hosts of one kind, or JAX_LOCAL_DEVICE_IDS=0,1,... on those with more"
        )


def patience() -> int:
    """Seconds to wait at the start."""
    text = os.environ.get(TIMEOUT) or str(PATIENCE)
    if not (text.isdecimal() and int(text) > 0):
        raise UserError(f"{TIMEOUT}={text}: expected seconds, a whole number above 0")
    return int(text)


@contextmanager
def watch(cluster: Cluster, seconds: int) -> Iterator[None]:
    """End the process with a message when what is inside takes longer: jax itself would abort with a stack trace."""

    def give_up() -> None:
        heard = "" if cluster.address is None else reached(cluster.address)
        print(
            f"error: {cluster}: waited {seconds} s for the others{heard}\n"
            f"  mend: see that all {cluster.count} run and can reach {cluster.where}; {TIMEOUT}=SECONDS waits longer",
            file=sys.stderr,
            flush=True,
        )
        os._exit(UserError.exit_code)  # the main thread is deep in C++ and hears no exception

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def reached(address: str) -> str:
    """What a connection to process 0 says about why the others are not there."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return f"; nobody answers at {address} ({error.strerror or error})"
    return f"; process 0 answers at {address}, so others are missing"


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


def main_first(action: Callable[[], T]) -> T:
    """Process 0 does it and then the others, so that they find what it wrote.

    What process 0 raised, it raises; the others then say that it did.
    """
    if jax.process_count() == 1:
        return action()
    error: BaseException | None = None
    if is_main():
        try:
            done = action()
        except BaseException as raised:  # a Ctrl-C too: the others must not wait for ever
            error = raised
    failed = multihost_utils.broadcast_one_to_all(int(error is not None))
    if error is not None:
        raise error
    if failed:
        raise UserError("process 0 stopped with an error; its output says which")
    return done if is_main() else action()


def agree(flag: bool) -> bool:
    """Whether the flag is set on any process; every process must ask at the same time."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(int(flag)).any())


def same_everywhere(what: Mapping[str, object]) -> None:
    """Stop where the processes do not agree on something: a config's keys, the digest of data, a version.

    Args:
        what: name -> value.  Values are compared as text; every process must ask at the same time.

    Raises:
        UserError: on every process, with the names that differ, and two values of each.
    """
    if jax.process_count() == 1:
        return
    ours = json.dumps({name: str(value) for name, value in what.items()}).encode()
    length = int(multihost_utils.process_allgather(len(ours)).max())
    everyone = multihost_utils.process_allgather(np.frombuffer(ours.ljust(length), np.uint8))
    first, *others = (json.loads(bytes(row)) for row in np.asarray(everyone, np.uint8))
    lines = []
    for name in sorted({name for each in (first, *others) for name in each}):
        values = [each.get(name, "(not there)") for each in (first, *others)]
        number = next((i for i, value in enumerate(values) if value != values[0]), None)
        if number is not None:
            lines.append(f"  {name}: {values[0]:.100} on process 0, {values[number]:.100} on process {number}")
    if lines:
        more = [f"  and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise UserError(
            "\n".join(["the processes of this run do not agree:", *lines[:12], *more])
            + "\n  mend: the same command, with the same code and files, on every host"
        )
