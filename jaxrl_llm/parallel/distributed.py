"""Several processes as one: joined at the start, process 0 speaks and writes for all."""

import os
from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from jaxrl_llm.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TIMEOUT = 300  # seconds that processes wait for one another at the start

T = TypeVar("T")


def join() -> None:
    """Join the other processes, when the environment's three VARIABLES say that there are any.

    To be called before anything else of jax.

    Raises:
        UserError: only some of the variables are set, one is no number, or the others did not come.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not given:
        return
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UserError(f"{', '.join(given)} is set, but not {', '.join(missing)}\n  mend: set all three, or none")
    address, count, number = (given[name] for name in VARIABLES)
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise UserError(f"JAX_PROCESS_ID={number} of JAX_NUM_PROCESSES={count}: expected whole numbers, 0 <= ID < NUM")
    try:
        jax.distributed.initialize(address, int(count), int(number), initialization_timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"process {number} of {count} waited {TIMEOUT} s for the others at JAX_COORDINATOR_ADDRESS={address}:\n"
            f"  {reason}"
        ) from error


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
