"""From rows to batches on the mesh: `DataSource` for training, whatever its batches are; `eval_batches` of packed rows.

A process reads only the rows that its own devices hold, found from the sharding, so the batches are the same ones for
any mesh and any number of hosts.
"""

import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from jaxrl_llm.data.rows import Row, Rows
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.mesh import BATCH_AXES, on_mesh
from jaxrl_llm.types import Json, Params, Tokens, TrainState

THREADS = 2  # that make batches; filling arrays holds the interpreter's lock, so more of them do not help


class DataSource:
    """Batches of fixed data, the next ones made ahead in threads.  A `types.Source`.

    Args:
        make: the batch of a global step, which depends on nothing else; called in threads.
        tokens_per_step: places in the rows of a batch.
        steps_per_epoch: batches that hold each row or example once, to count epochs.
        prefetch: batches made ahead; 0 makes each when it is asked for.
        fingerprint: another one where the rows, their order or the batch size are.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        *,
        tokens_per_step: int,
        steps_per_epoch: float,
        prefetch: int,
        fingerprint: str,
    ) -> None:
        self._make, self._prefetch = make, prefetch
        self.tokens_per_step = tokens_per_step
        self._steps_per_epoch, self._fingerprint = steps_per_epoch, fingerprint
        self._position = 0  # batches that `next` has given
        self._ahead: deque[Future[Any]] = deque()  # batches _position, _position + 1, ...
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="data")

    def next(self, state: TrainState) -> tuple[Any, dict[str, float]]:
        """The next batch, arrays [M, b, ...], and seconds it was waited for.  What a thread raised is raised here."""
        while len(self._ahead) <= self._prefetch:
            self._ahead.append(self._pool.submit(self._make, self._position + len(self._ahead)))
        began = time.perf_counter()
        batch = self._ahead[0].result()
        waited = time.perf_counter() - began
        self._ahead.popleft()
        self._position += 1
        return batch, {"data_wait_s": waited}

    def observe(self, metrics: Mapping[str, Array]) -> None:
        """Nothing: fixed data do not depend on how training goes."""

    def state(self) -> tuple[Json, Params]:
        """Batches given so far (those made ahead do not count), passes over the data, and the data's fingerprint."""
        epoch = self._position / self._steps_per_epoch
        return {"position": self._position, "epoch": epoch, "fingerprint": self._fingerprint}, {}

    def restore(self, json: Json, arrays: Params) -> None:
        """Continue with the batch after the last one given.

        Raises:
            UserError: the data are not those of the checkpoint.
        """
        if json["fingerprint"] != self._fingerprint:
            raise UserError(
                "the data changed since the checkpoint, so its place in them means nothing: "
                "the text, the tokenizer, a key of data, seed or training.batch_size is another\n"
                "  mend: put it back, or start a new run from these weights (init_from=RUN with another workdir)"
            )
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._position = json["position"]

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)


def token_batches(
    rows: grain.MapDataset,
    *,
    length: int,
    batch_size: int,
    micro_batches: int,
    sharding: NamedSharding,
    segmented: bool,
    dropout_seed: int | None = None,
) -> Callable[[int], Tokens]:
    """How a `DataSource` makes batches of packed rows.

    Global step n takes elements n * batch_size .. (n + 1) * batch_size - 1 of `rows`; element j of them lies at
    micro-batch j // b, place j % b, with b = batch_size / micro_batches.  So `micro_batches` only cuts the same batch.

    Args:
        rows: endless random access to Rows of [T].
        length: T.
        batch_size: rows a step, over all devices.
        micro_batches: M, the cuts of a batch.
        sharding: of the arrays [M, b, T].
        segmented: whether batches carry segment ids; without, each row is one text, and attention needs no mask.
        dropout_seed: decides the rows' seeds, with the step; None: there is no dropout.

    Raises:
        UserError: micro-batches times devices do not divide the batch.
    """
    check_batch("training.batch_size", batch_size, micro_batches, sharding)
    shape = (micro_batches, batch_size // micro_batches, length)

    def make(step: int) -> Tokens:
        tokens = _assemble(rows.__getitem__, step * batch_size, shape, sharding, segmented)
        if dropout_seed is None:
            return tokens
        seeds = row_seeds(batch_size, dropout_seed, step).reshape(shape[:2])
        return dataclasses.replace(tokens, seeds_B=on_mesh(seeds, sharding))

    return make


def eval_batches(rows: Rows, batch_size: int, sharding: NamedSharding, max_rows: int | None = None) -> Iterator[Tokens]:
    """All rows in order, or the first `max_rows`, as arrays [b, T] of b = `batch_size`; the last is filled up.

    Raises:
        UserError: the devices do not divide the batch.
    """
    check_batch("eval.batch_size", batch_size, 1, sharding)
    n_rows = len(rows) if max_rows is None else min(max_rows, len(rows))
    padding = Row(*(np.zeros_like(array) for array in rows[0]))

    def row(i: int) -> Row:
        return rows[i] if i < n_rows else padding

    for first in range(0, n_rows, batch_size):
        yield _assemble(row, first, (batch_size, rows.length), sharding, rows.isolate_documents)


def row_seeds(n: int, *numbers: int) -> np.ndarray:
    """Seeds of n rows' dropout, uint32 [n]: hashes of these numbers and the row's."""
    return np.random.SeedSequence(numbers).generate_state(n)


def _assemble(
    row: Callable[[int], Row], first: int, shape: tuple[int, ...], sharding: NamedSharding, segmented: bool
) -> Tokens:
    """Tokens of global `shape`, [M, b, T] or [b, T]: row(first), row(first + 1), ... in C order.

    Asks for the rows that this process's devices hold and no others; nothing is communicated.
    """
    row = functools.cache(row)
    places = first + np.arange(math.prod(shape[:-1])).reshape(shape[:-1])

    def shard(field: int, index: tuple[slice, ...]) -> np.ndarray:
        block = places[index[:-1]]
        return np.stack([row(i)[field][index[-1]] for i in block.ravel().tolist()]).reshape(*block.shape, -1)

    fields = range(len(Row._fields))
    arrays = [jax.make_array_from_callback(shape, sharding, functools.partial(shard, field)) for field in fields]
    tokens = Tokens(*arrays)
    return tokens if segmented else dataclasses.replace(tokens, segments_BT=None)


def check_batch(name: str, batch_size: int, micro_batches: int, sharding: NamedSharding) -> None:
    """A UserError unless each micro-batch gives each group of devices along the batch's axes as many rows."""
    data, fsdp = (sharding.mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % (micro_batches * data * fsdp):
        raise UserError(
            f"{name}={batch_size} cannot be cut into {micro_batches} micro-batch(es) of equal rows for "
            f"mesh.data={data} x mesh.fsdp={fsdp}\n  mend: make it a multiple of {micro_batches * data * fsdp}"
        )
