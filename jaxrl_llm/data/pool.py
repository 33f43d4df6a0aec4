"""Work on a stream in several processes, with the results in its order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from jaxrl_llm.errors import UserError

X = TypeVar("X")
Y = TypeVar("Y")


def n_workers(asked: int, size: int, large: int) -> int:
    """`asked`; where that is 0, one a core for a `size` above `large`, none for a smaller one."""
    if asked or size <= large:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(work: Callable[[X], Y], items: Iterator[X], workers: int) -> Iterator[Y]:
    """`work(item)` of each item in order; with `workers`, in so many processes, a few items ahead.

    `work` goes to each process once, pickled.

    Raises:
        UserError: a process died; or what `work` raised.
    """
    if not workers:
        yield from map(work, items)
        return
    # spawn, since a fork of a process that runs threads (as JAX does) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, start_worker, (work,))
    ahead: deque[Future[Y]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(_do, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that tokenised died, most likely for lack of memory\n"
            "  mend: fewer data.workers, and the same command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]  # of a process of the pool


def start_worker(work: Callable[[Any], Any]) -> None:
    """What each process does first."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()  # or a killed parent leaves this one forever
    _work = work


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _do(item: Any) -> Any:
    return _work(item)
