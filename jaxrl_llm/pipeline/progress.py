"""How far a running stage is, from the metrics.jsonl that it writes."""

import json
from dataclasses import dataclass
from typing import Any

from jaxrl_llm.pipeline.figures import Numbers, numbers, of_sets, summary
from jaxrl_llm.pipeline.stage import Stage
from jaxrl_llm.training.console import duration
from jaxrl_llm.training.writers import METRICS


@dataclass(frozen=True)
class Snapshot:
    """How far it is: `done` of `total` units, where that is known."""

    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    left: float | None = None  # seconds
    figures: str = ""

    @property
    def text(self) -> str:
        """`120 of 400 steps, 0:01:10 left, loss 0.512`; empty where nothing is known."""
        at = f"{self.done:,.0f} of {self.total:,.0f} {self.unit}" if self.total else ""
        left = "" if self.left is None else f"{duration(self.left)} left"
        return ", ".join(part for part in (at, left, self.figures) if part)


class Progress:
    """Reads what was written since it last looked; it costs little, however long the file has become."""

    def __init__(self, stage: Stage) -> None:
        self._file = stage.directory / METRICS
        self._training = stage.verb == "train"
        self._total = float(stage.config.training.steps) if self._training else 0.0
        self._watched = stage.resumes
        self._forget()

    def _forget(self) -> None:
        self._offset, self._torn = 0, b""
        self._done = 0.0
        self._sets: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {}  # (row before the first step, newest)
        self._newest: dict[str, Any] = {}  # of training
        self._first: tuple[float, float] | None = None  # when we first saw a row, and how far it was
        self._last: tuple[float, float] | None = None  # the newest one

    def look(self, now: float) -> Snapshot:
        """How far it is at this time, in seconds of any clock."""
        if not self._watched:
            return Snapshot()
        for row in self._rows():
            self._take(row)
        if self._done and (self._last is None or self._done != self._last[1]):
            self._last = now, self._done
            self._first = self._first or self._last
        unit = "steps" if self._training else "answers"
        return Snapshot(self._done, self._total, unit, self._left(now), self._figures())

    def _rows(self) -> list[dict[str, Any]]:
        """New whole lines."""
        try:
            if self._file.stat().st_size < self._offset:  # a run that goes on cuts rows off
                self._forget()
            with self._file.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        self._offset += len(new)
        *lines, self._torn = (self._torn + new).split(b"\n")
        found = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found += [row] if isinstance(row, dict) else []
        return found

    def _take(self, row: dict[str, Any]) -> None:
        split = row.get("split", "train")
        if not self._training:
            known = numbers(row)
            self._done, self._total = known.get("answers", self._done), known.get("of", self._total)
            self._newest = row
        elif split == "train":
            self._done, self._newest = numbers({"at": row.get("step")}).get("at", self._done), row
        else:
            before, _ = self._sets.get(split, (row if row.get("step") == 0 else None, row))
            self._sets[split] = before, row

    def _left(self, now: float) -> float | None:
        """At the pace between the first row that we saw and the newest."""
        if self._first is None or self._last is None or self._first == self._last or self._done >= self._total:
            return None
        (since, at), (until, done) = self._first, self._last
        return max(0.0, (self._total - done) * (until - since) / (done - at) - (now - until))

    def _figures(self) -> str:
        # A row at step 0 is the state before training: no "after" yet.
        later = {name: both for name, both in self._sets.items() if both[1] is not both[0]}
        before, after = of_sets(later)
        newest: Numbers = {
            name: x for name, x in numbers(self._newest).items() if name in ("loss", "score", "accuracy")
        }
        if "score" in newest:  # of rollouts the loss says nothing
            newest.pop("loss", None)
        newest = {name: x for name, x in newest.items() if name not in after}
        return summary(before, {**newest, **after}, most=2)
