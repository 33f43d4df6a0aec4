"""The stopwatch by a clock of its own, and the lines that are printed."""

import io
import re
from typing import Any

import pytest

from jaxrl_llm.training.console import Console, digits, duration, printable, si
from jaxrl_llm.training.progress import Throughput


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stopwatch(clock: Clock, peak: float | None = 1e12) -> Throughput:
    return Throughput(tokens_per_step=1000, flops_per_token=1e6, peak_flops=peak, clock=clock)


def steps(watch: Throughput, clock: Clock, n: int, seconds: float = 0.1, wait: float = 0.01) -> None:
    for _ in range(n):
        clock.now += seconds
        watch.step(wait)


def test_compilation_and_pauses_do_not_count(clock: Clock) -> None:
    watch = stopwatch(clock)
    steps(watch, clock, 1, seconds=30.0)  # compiles
    watch.start()
    steps(watch, clock, 5)
    watch.pause()
    clock.now += 60.0  # evaluation
    watch.resume()
    steps(watch, clock, 5)
    rates = watch.rates()
    assert rates == pytest.approx(
        {"tokens_per_s": 10_000, "tflops": 0.01, "peak_share": 0.01, "step_ms": 100, "data_wait_ms": 10}
    )


def test_rates_are_of_the_steps_since_the_last_call(clock: Clock) -> None:
    watch = stopwatch(clock)
    watch.start()
    steps(watch, clock, 3)
    watch.rates()
    assert watch.rates() == {}
    steps(watch, clock, 2, seconds=0.2, wait=0.0)
    assert watch.rates()["step_ms"] == pytest.approx(200)


def test_rates_while_paused_keep_it_paused(clock: Clock) -> None:
    watch = stopwatch(clock)
    watch.start()
    steps(watch, clock, 2)
    watch.pause()
    assert watch.rates()["step_ms"] == pytest.approx(100)
    clock.now += 60.0
    watch.resume()
    steps(watch, clock, 1)
    assert watch.rates()["step_ms"] == pytest.approx(100)


def test_no_share_of_an_unknown_peak_and_nothing_before_the_start(clock: Clock) -> None:
    watch = stopwatch(clock, peak=None)
    steps(watch, clock, 3)
    watch.resume()
    assert watch.rates() == {}
    assert watch.seconds_left(10) is None
    watch.start()
    steps(watch, clock, 1)
    assert "peak_share" not in watch.rates()


def test_time_left_counts_the_pauses_too(clock: Clock) -> None:
    watch = stopwatch(clock)
    watch.start()
    steps(watch, clock, 10)
    watch.pause()
    clock.now += 1.0
    watch.resume()
    assert watch.seconds_left(100) == pytest.approx(20)


ROW = {"loss": 1.62314, "grad_norm": 0.4123, "lr": 2.1e-3, "tokens_per_s": 42_123.0, "tflops": 1.2}
ROW |= {"peak_share": 0.002, "step_ms": 18.0, "memory_gib": 1.2, "data_wait_ms": 0.3}


def console(clock: Clock, stream: Any = None, **kwargs: Any) -> tuple[Console, Any]:
    stream = io.StringIO() if stream is None else stream
    watch = stopwatch(clock)
    watch.start()
    steps(watch, clock, 10)
    return Console(total_steps=2000, throughput=watch, stream=stream, **kwargs), stream


def test_the_line(clock: Clock) -> None:
    sut, out = console(clock)
    with sut:
        sut.advance(1200)
        sut.log(1200, ROW)
        sut.eval(1200, "validation", {"loss": 1.5, "perplexity": 4.4817, "bits_per_byte": 2.164})
        sut.note("saved")
    assert out.getvalue().splitlines() == [
        "step 1,200/2,000  loss  1.6231  grad  0.41  lr 2.10e-03  42.1k tok/s    1.20 TFLOP/s ( 0.2 % of peak)"
        "  mem  1.2 GiB  data  0.3 ms  ETA 0:01:20",
        "eval 1,200/2,000  validation  loss  1.5000  perplexity  4.48  bits/byte 2.1640",
        "saved",
    ]


def test_what_an_algorithm_measures_stands_after_its_loss(clock: Clock) -> None:
    sut, out = console(clock)
    sut.log(10, {"loss": 2.5, "trained_fraction": 0.388, "grad_norm": 1.0})
    sut.log(20, {"loss": 0.7, "margin": -0.0214, "accuracy": 0.535, "score_mean": 0.1, "grad_norm": 1.0})
    sut.log(
        30, {"loss": 0.5, "rewards/accuracies": 1.0, "rewards/margins": 12.5, "rewards/chosen": 1, "grad_norm": 1.0}
    )
    interval = {"accuracy_low": 0.466, "accuracy_high": 0.6027}
    sut.eval(
        30, "validation", {"loss": 0.5, "rewards/accuracies": 0.535, "accuracy": 0.535, "margin": 0.05, **interval}
    )
    sut.eval(40, "validation", {"loss": 0.5, "rewards/accuracies": 0.0, "rewards/margins": -0.1})
    assert [line.rpartition("  ETA")[0] or line for line in out.getvalue().splitlines()] == [
        "step    10/2,000  loss  2.5000  trained  38.8 %  grad  1.00",
        "step    20/2,000  loss  0.7000  accuracy  53.5 %  margin  -0.021  grad  1.00",
        "step    30/2,000  loss  0.5000  accuracy 100.0 %  margin +12.500  grad  1.00",
        "eval    30/2,000  validation  loss  0.5000  accuracy  53.5 % (46.6 to 60.3)  margin  +0.050",
        "eval    40/2,000  validation  loss  0.5000  accuracy   0.0 %  margin  -0.100",
    ]


OF_ROLLOUTS = {
    "loss": 0.01,
    "grad_norm": 1.0,
    "lr": 1e-5,
    "score": 0.6121,
    "score_std": 0.48,
    "kl": 5.118,
    "kl_k3": 5.3,
}
OF_ROLLOUTS |= {"entropy": 0.3149, "clip_fraction": 0.031, "length": 54.2, "ended": 0.991, "tokens_per_s": 9000.0}


def test_a_line_of_rollouts_is_about_the_answers_and_fits_120_columns(clock: Clock) -> None:
    sut, out = console(clock)
    sut.log(10, OF_ROLLOUTS)
    sut.log(2000, OF_ROLLOUTS | {"score": -10.25, "kl": 0.0, "clip_fraction": 1.0, "length": 256.0, "ended": 1.0})
    sut.log(30, {name: x for name, x in OF_ROLLOUTS.items() if name not in ("kl", "clip_fraction")})
    first, second, third = out.getvalue().splitlines()
    assert first.startswith(
        "step    10/2,000  reward  0.612  kl  5.12  entropy 0.31  clip  3.1 %   54 tokens  ended  99 %  lr 1.0e-05  ETA"
    )
    assert "reward -10.250  kl  0.00  entropy 0.31  clip 100.0 %  256 tokens  ended 100 %" in second
    assert max(len(first), len(second)) <= 120
    assert third.startswith("step    30/2,000  reward  0.612  entropy 0.31   54 tokens  ended  99 %  lr 1.0e-05  ETA")


def test_the_line_of_a_task(clock: Clock) -> None:
    sut, out = console(clock)
    row = {"accuracy": 0.534, "accuracy_low": 0.512, "accuracy_high": 0.556, "parsed": 0.995, "ended": 1.0}
    sut.eval(1200, "arithmetic", row | {"accuracy_of_parsed": 0.54, "problems": 2048.0, "length": 54.21})
    assert out.getvalue() == (
        "eval 1,200/2,000  arithmetic  accuracy  53.4 % (51.2 to 55.6)  parsed  99.5 %  ended 100.0 %   54.2 tokens\n"
    )


def test_answers_with_rewards_fit_the_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    answer = {"prompt": "2 + 2?", "completion": "so " * 100 + "4\x1b[31m", "reward": 1.0, "parts": {}, "ended": True}
    for stream in (Terminal(), io.StringIO()):
        sut, out = console(clock, stream)
        sut.samples([answer])
        seen = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", out.getvalue())
        head, line = seen.splitlines()
        assert head.split() == ["prompt", "answer", "reward", "ended"]
        assert len(line) <= 70
        assert "so 4\\x1b[31m" in line
    monkeypatch.delenv("COLUMNS")
    sut, out = console(clock, quiet=True)
    sut.samples([answer])
    assert out.getvalue() == ""


def test_columns_stay_where_they_are(clock: Clock) -> None:
    sut, out = console(clock)
    large = {"loss": 10.9, "grad_norm": 12.5, "lr": 3e-4, "tokens_per_s": 9.5, "tflops": 5120.0, "peak_share": 0.52}
    sut.log(1, large | {"memory_gib": 120.0, "data_wait_ms": 12.0})
    sut.log(2000, ROW)
    first, second = out.getvalue().splitlines()
    for word in ("loss", "grad", "lr", "tok/s", "TFLOP/s", "% of peak"):
        assert first.index(word) == second.index(word), word


def test_what_is_missing_is_left_out(clock: Clock) -> None:
    sut, out = console(clock, memory="process")
    sut.log(1, {"loss": float("nan"), "memory_gib": 0.5})
    assert re.fullmatch(r"step     1/2,000  loss     nan  rss  0.5 GiB  ETA \S+\n", out.getvalue())


def test_a_pipe_gets_no_escape_codes_and_each_line_at_once(clock: Clock) -> None:
    class Pipe(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    sut, out = console(clock, Pipe())
    with sut:
        sut.log(10, ROW)
        sut.note("a model wrote \x1b[31mred\x07 and [bold]é\ttab")
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[31mred\\x07 and [bold]é\ttab" in out.getvalue()
    assert out.flushed == 2


def test_quiet_is_silent_on_a_terminal_too(clock: Clock) -> None:
    sut, out = console(clock, Terminal(), quiet=True)
    with sut:
        sut.advance(10)
        sut.log(10, ROW)
        sut.eval(10, "validation", {"loss": 1.0})
        sut.note("hello")
    assert out.getvalue() == ""


def test_a_closed_pipe_does_not_end_the_run(clock: Clock) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    sut, _ = console(clock, Closed())
    sut.log(10, ROW)
    sut.log(20, ROW)


def test_ascii_only_streams_are_served(clock: Clock) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    sut, _ = console(clock, stream)
    sut.note("naïve")
    assert stream.buffer.getvalue() == b"na\\xefve\n"  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_and_lines_that_do_not_wrap(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    sut, out = console(clock, Terminal(), start_step=1000)
    with sut:
        sut.advance(1300)
        sut.log(1300, ROW)
        sut.log(1400, {"loss": 0.7, "accuracy": 0.535, "margin": -0.0214, "grad_norm": 1.0, "lr": 1e-4, "tflops": 1.0})
    seen = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", out.getvalue())
    lines = re.split(r"[\r\n]+", seen)
    assert "step 1,300/2,000  loss  1.6231  grad  0.41  lr 2.10e-03  42.1k tok/s" in lines
    assert all(len(line) <= 80 for line in lines)
    assert "step 1,400/2,000  loss  0.7000  accuracy  53.5 %  margin  -0.021  grad  1.00" in lines
    bars = [line for line in lines if "━" in line]
    assert "1,000/2,000" in bars[0]
    assert "1,300/2,000" in bars[-1]
    assert "ETA 0:01:10" in bars[-1]


def test_a_dumb_terminal_gets_plain_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    sut, out = console(clock, Terminal())
    with sut:
        sut.log(10, ROW)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0, "0.0000"),
        (0.0184, "0.0184"),
        (0.377, "0.377"),
        (1.2, "1.20"),
        (42.13, "42.1"),
        (560.4, "560"),
        (5120, "5,120"),
    ],
)
def test_three_digits(x: float, text: str) -> None:
    assert digits(x) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [(842, "842"), (999.7, "1.00k"), (42_123, "42.1k"), (1.23e6, "1.23M"), (7e9, "7.00G"), (2e12, "2.00T")],
)
def test_unit_prefixes(x: float, text: str) -> None:
    assert si(x) == text


@pytest.mark.parametrize(
    ("s", "text"), [(0.4, "0:00:00"), (70, "0:01:10"), (3599.6, "1:00:00"), (273_600, "3d 04:00:00")]
)
def test_durations(s: float, text: str) -> None:
    assert duration(s) == text


def test_printable_keeps_text_and_shows_controls() -> None:
    assert printable("ä\u00a0字\n\t\x1b\x85\ud800") == "ä\u00a0字\n\t\\x1b\\x85\\ud800"
