"""How fast the steps go: wall time of training alone, without compilation, evaluation and checkpoints."""

import time
from collections.abc import Callable


class Throughput:
    """A stopwatch over training steps; its figures go to the console and to metrics.jsonl alike.

    Steps are dispatched asynchronously, so call `start`, `pause` and `rates` only when the device has caught up: after
    the first step's result was waited for, before an evaluation, and after a step's metrics were fetched.

        watch.start()                  # the first step is done, and with it compilation
        watch.step(data_wait)          # each further step, as it is dispatched
        watch.pause(); ...; watch.resume()    # around an evaluation or a checkpoint
        row |= watch.rates()           # at each logged step: since the last one
    """

    def __init__(
        self,
        *,
        tokens_per_step: float,
        flops_per_token: float,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Tokens, FLOPs and peak (FLOP/s) are those of all devices together; the peak is None where it is unknown."""
        self._tokens, self._flops, self._peak, self._clock = tokens_per_step, flops_per_token, peak_flops, clock
        self._started: float | None = None  # when `start` was called
        self._running: float | None = None  # since when the watch runs; None while it is paused
        self._lap_seconds = self._lap_wait = 0.0
        self._lap_steps = self._steps = 0

    def start(self) -> None:
        """Count from here."""
        self._started = self._running = self._clock()

    def pause(self) -> None:
        """Something other than training follows."""
        if self._running is not None:
            self._lap_seconds += self._clock() - self._running
            self._running = None

    def resume(self) -> None:
        """Training goes on; before `start` this does nothing."""
        if self._started is not None and self._running is None:
            self._running = self._clock()

    def step(self, data_wait: float) -> None:
        """One more step, whose batch was waited for so many seconds; those before `start` do not count."""
        if self._started is not None:
            self._lap_steps += 1
            self._steps += 1
            self._lap_wait += data_wait

    def rates(self) -> dict[str, float]:
        """Figures of the steps since the last call, by their names in metrics.jsonl; empty where there were none.

        `tokens_per_s` and `tflops` (model TFLOP/s) over all devices, `peak_share` (0 to 1, where the peak is known),
        `step_ms`, `data_wait_ms` (the part of a step that the host waited for its batch).
        """
        paused = self._running is None
        self.pause()
        steps, seconds, wait = self._lap_steps, self._lap_seconds, self._lap_wait
        self._lap_steps, self._lap_seconds, self._lap_wait = 0, 0.0, 0.0
        if not paused:
            self.resume()
        if not steps or seconds <= 0:
            return {}
        tokens_per_s = steps * self._tokens / seconds
        flops = tokens_per_s * self._flops
        return {
            "tokens_per_s": tokens_per_s,
            "tflops": flops / 1e12,
            **({"peak_share": flops / self._peak} if self._peak else {}),
            "step_ms": 1e3 * seconds / steps,
            "data_wait_ms": 1e3 * wait / steps,
        }

    def seconds_left(self, steps: int) -> float | None:
        """Wall time that so many further steps will take at the pace so far, pauses included; None before any step."""
        if self._started is None or not self._steps:
            return None
        return steps * (self._clock() - self._started) / self._steps
