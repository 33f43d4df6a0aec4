"""One person's way through the items: what is next, what was decided, back again, and what it comes to."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrl_llm.errors import UserError
from jaxrl_llm.labelling.candidates import Item
from jaxrl_llm.labelling.decisions import Decision, make_row, skip_row, written
from jaxrl_llm.labelling.ledger import Ledger

ALIKE = "no two answers differ"


class Summary(NamedTuple):
    """Of all rows of a labeller in the file."""

    labelled: int
    ties: int  # no answer is better than another
    skipped: int  # of the candidates, those without a choice included
    first_chosen: float | None  # how often the answer shown first was the best one; None: there never was one best
    first_by_chance: float | None  # how often that would be for one who does not look
    seconds: float | None  # median for an item


class Session:
    """The items that a labeller has neither labelled nor skipped yet, in order; `labelled` and `skipped` are written.

    Items without two answers that differ are skipped at once.
    """

    def __init__(self, items: Sequence[Item], labelled: Ledger, skipped: Ledger, labeller: str):
        self._items = {item.id: item for item in items}
        self._labelled, self._skipped, self._labeller = labelled, skipped, labeller
        known = {row["id"] for row in [*self._own(labelled), *self._own(skipped)]}
        refuse_other_prompts(self._items, self._own(labelled))
        alike = [item for item in items if len(item.answers) < 2 and item.id not in known]
        skipped.append(*(skip_row(item, labeller, ALIKE) for item in alike))
        known |= {item.id for item in alike}
        self.alike = len(alike)
        self.todo = deque(item for item in items if item.id not in known)
        self.decided = 0  # since the beginning of this session; less than 0 after going back behind it
        self._undoable = [labelled] * self._own_at_end()  # where the decisions lie that `back` takes back

    def keep(self, item: Item, order: Sequence[int], decision: Decision, seconds: float) -> None:
        """What was decided about the first of `todo`."""
        self._done(self._labelled, make_row(item, order, decision, self._labeller, seconds))

    def skip(self, item: Item) -> None:
        """The first of `todo` is not to be asked again."""
        self._done(self._skipped, skip_row(item, self._labeller, "by hand"))

    def back(self) -> bool:
        """Take back the last decision, whose item is the next one then; False: there is none."""
        if not self._undoable:
            return False
        row = self._undoable.pop().drop_last()
        self.todo.appendleft(self._items[row["id"]])
        self.decided -= 1
        return True

    def seconds_left(self, limit: int | None) -> float | None:
        """For what is left of the items, or of the session's limit; None: not known yet."""
        left = len(self.todo) if limit is None else min(len(self.todo), limit - self.decided)
        seconds = self.summary().seconds
        return None if seconds is None else left * seconds

    def summary(self) -> Summary:
        """What it comes to until now."""
        rows = self._own(self._labelled)
        ranks = [row.get("ranks", [0, 1]) for row in rows]
        clear = [row["shown"] for row, each in zip(rows, ranks, strict=True) if each.count(min(each)) == 1]
        return Summary(
            labelled=len(rows),
            ties=sum(len(set(each)) == 1 for each in ranks),
            skipped=sum(row["id"] in self._items for row in self._own(self._skipped)),
            first_chosen=statistics.mean(shown[0] == 1 for shown in clear) if clear else None,
            first_by_chance=statistics.mean(1 / len(shown) for shown in clear) if clear else None,
            seconds=statistics.median(row["seconds"] for row in rows) if rows else None,
        )

    def _done(self, ledger: Ledger, row: dict[str, Any]) -> None:
        ledger.append(row)
        self.todo.popleft()
        self._undoable.append(ledger)
        self.decided += 1

    def _own(self, ledger: Ledger) -> list[dict[str, Any]]:
        return [row for row in ledger.rows if row["labeller"] == self._labeller]

    def _own_at_end(self) -> int:
        """How many of the last rows are this labeller's, of items that can be shown again."""
        count = 0
        for row in reversed(self._labelled.rows):
            if row["labeller"] != self._labeller or row["id"] not in self._items:
                break
            count += 1
        return count


def refuse_other_prompts(items: Mapping[str, Item], rows: Sequence[Mapping[str, Any]]) -> None:
    """A UserError where an id of the candidates has been labelled for another prompt: it would never be asked about."""
    for row in rows:
        item = items.get(row["id"])
        if item is not None and row["prompt"] != written(item.prompt, "user"):
            raise UserError(
                f"{item.origin}: its id {item.id!r} is in the labels already, for another prompt\n"
                "  mend: ids of their own for these candidates, or another file for their labels"
            )
