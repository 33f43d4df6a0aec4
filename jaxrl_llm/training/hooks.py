"""What hangs on the loop: logging, evaluation, checkpoints, and stopping when asked.  See `loop.Hook`."""

import dataclasses
import math
import signal
from collections.abc import Callable, Mapping
from types import FrameType

import jax
from jax import Array

from jaxrl_llm.errors import Diverged, Preempted, UserError
from jaxrl_llm.parallel.chips import device_memory
from jaxrl_llm.parallel.distributed import agree
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.console import Console
from jaxrl_llm.training.progress import Throughput
from jaxrl_llm.training.writers import Writer
from jaxrl_llm.types import Json, Params, Source, TrainState

AGREE_EVERY = 10  # steps between two questions of several processes whether one of them was asked to stop
WAIT = "data_wait_s"  # of a source's metrics that which the watch keeps
COUNT = "count/"  # metrics of this prefix count what a term was averaged over


class LogHook:
    """A line of the console and a row of metrics.jsonl every few steps.

    A step's metrics are fetched one step later, when the device is already busy with the next, so logging makes it wait
    for nothing.  `flush` fetches what is due at once, for those who must know that the state is sound.
    """

    def __init__(
        self, console: Console, writers: tuple[Writer, ...], watch: Throughput, *, every: int, last: int, tokens: int
    ) -> None:
        self.console, self.writers, self.watch = console, writers, watch
        self._every, self._last, self._tokens = every, last, tokens
        self._due: tuple[int, Mapping[str, Array], Mapping[str, float]] | None = None
        self._began = False

    def __call__(
        self, number: int, state: TrainState, metrics: Mapping[str, Array], source_metrics: Mapping[str, float]
    ) -> None:
        """After every step."""
        self.flush()
        if not self._began:  # the first step compiles; the watch starts when it is done
            jax.block_until_ready(metrics)
            self._began = True
            self.watch.start()
        else:
            self.watch.step(source_metrics.get(WAIT, 0.0))
        self.console.advance(number)
        if number % self._every == 0 or number == self._last:
            self._due = number, metrics, source_metrics
        if number == self._last or metrics["loss"].is_ready():  # type: ignore[attr-defined]  # nothing to wait for
            self.flush()

    def flush(self) -> None:
        """Write the row that is due, if one is.

        Raises:
            Diverged: the loss or the gradient is not finite.
            UserError: there was nothing to learn in the batch.
        """
        if self._due is None:
            return
        (number, metrics, source_metrics), self._due = self._due, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(number, values)
        row = {name: value for name, value in values.items() if not name.startswith(COUNT)}
        row |= {name: value for name, value in source_metrics.items() if name != WAIT}
        row |= {"tokens": number * self._tokens, **self.watch.rates(), "memory_gib": device_memory().peak / 2**30}
        for writer in self.writers:
            writer.write(number, "train", row)
        self.console.log(number, row)


def check_finite(number: int, values: Mapping[str, float]) -> None:
    """Raise when training on would be in vain: see `LogHook.flush`."""
    wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
    if wrong:
        raise Diverged(
            f"diverged: {' and '.join(wrong)} of step {number} is {values[wrong[0]]}; nothing more was saved\n"
            "  mend: a smaller schedule.lr, a longer schedule.warmup or optim.clip=1.0, in a new workdir; "
            "init_from=RUN/checkpoints/STEP starts from the last good step"
        )
    empty = [name.removeprefix(COUNT) for name, value in values.items() if name.startswith(COUNT) and value == 0]
    if empty:
        raise UserError(
            f"the batch of step {number} has nothing to learn for {', '.join(empty)}: every weight is 0\n"
            "  mend: look at the rows with `jaxrl-llm data inspect`"
        )


class EvalHook:
    """Evaluates every few steps and after the last; `evaluate(state)` gives metrics by held-out set."""

    def __init__(
        self, evaluate: Callable[[TrainState], dict[str, dict[str, float]]], log: LogHook, *, every: int, last: int
    ):
        self._evaluate, self._log, self._every, self._last = evaluate, log, every, last

    def __call__(
        self, number: int, state: TrainState, metrics: Mapping[str, Array], source_metrics: Mapping[str, float]
    ) -> None:
        """After every step."""
        if number == self._last or (self._every and number % self._every == 0):
            self.evaluate(number, state)

    def evaluate(self, number: int, state: TrainState) -> None:
        """Now; the time it takes is not training's."""
        self._log.flush()
        jax.block_until_ready(state.params)
        self._log.watch.pause()
        for name, values in self._evaluate(state).items():
            for writer in self._log.writers:
                writer.write(number, name, values)
            self._log.console.eval(number, name, values)
        self._log.watch.resume()


class CheckpointHook:
    """Saves every few steps, after the last one, and when a signal asked to stop: then it raises Preempted.

    `run(state)` is the JSON that every checkpoint carries: config, tokenizer and what belongs to the weights;
    `kept(fixed)` those of the fixed weights that it carries.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        source: Source,
        log: LogHook,
        stop: "StopSignal",
        run: Callable[[TrainState], Json],
        kept: Callable[[Params], Params],
        *,
        every: int,
        last: int,
    ):
        self._checkpoints, self._source, self._log, self._stop = checkpoints, source, log, stop
        self._run, self._kept, self._every, self._last = run, kept, every, last

    def __call__(
        self, number: int, state: TrainState, metrics: Mapping[str, Array], source_metrics: Mapping[str, float]
    ) -> None:
        """After every step."""
        stopping = number != self._last and self._stop.agreed(number)
        if not (stopping or number == self._last or (self._every and number % self._every == 0)):
            return
        self._log.flush()
        check_finite(number, {name: float(value) for name, value in jax.device_get(metrics).items()})
        self._log.watch.pause()
        saved = dataclasses.replace(state, fixed=self._kept(state.fixed))
        self._checkpoints.save(saved, self._source.state(), self._run(state))
        self._log.watch.resume()
        if stopping:
            self._checkpoints.wait()
            raise Preempted(
                f"stopped by {self._stop.asked or 'another process'}; step {number} of {self._last} is saved"
            )


class StopSignal:
    """Remembers a Ctrl-C or SIGTERM until the step is done.  A second one ends the program as it would have without us.

    A context manager: the handlers of before are put back at its end.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, note: Callable[[str], None]) -> None:
        self.asked: str | None = None
        self._note = note

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self, number: int) -> bool:
        """Whether to stop after this step: at once where one process runs; several ask each other now and then."""
        return agree(self.asked is not None) if jax.process_count() == 1 or number % AGREE_EVERY == 0 else False

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore()
        self._note(f"{self.asked}: this step is finished and saved; once more stops at once and loses it")
