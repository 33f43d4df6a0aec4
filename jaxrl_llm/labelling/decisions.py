"""What a person decides about an item: the questions, how replies are read, and the row that is kept."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxrl_llm.data.examples import Message
from jaxrl_llm.labelling.candidates import Item

RATINGS = ("negligibly better, or unsure", "slightly better", "better", "significantly better")  # 0 .. 3

Command = Literal["s", "b", "q"]  # skip this item, back to the last decision, quit
Ask = Callable[[str, str], str]  # (question, what was wrong with the last reply) -> a reply


@dataclass(frozen=True)
class Decision:
    """About the answers of an item, in the order they were shown."""

    ranks: tuple[int, ...]  # 0 is the best; equal ranks are a tie
    rating: int | None = None  # of two that are no tie: an index of RATINGS
    safe: tuple[bool, ...] | None = None  # None: not asked

    @property
    def tie(self) -> bool:
        """Whether no answer is better than another."""
        return len(set(self.ranks)) == 1


def decide(n: int, safety: bool, ask: Ask) -> Decision | Command:
    """Ask until everything about `n` answers is decided, or a command ends it.

    Of two answers: which is better, and by how much.  Of more: their order, without a rating, as the pairs of a ranking
    differ by unlike amounts.  With `safety`, which of them are safe.
    """
    known: list[dict[str, Any]] = []  # what each reply said
    wrong = ""
    while True:
        given = {name: value for part in known for name, value in part.items()}
        if (question := _next_question(n, safety, given)) is None:
            return Decision(**given)
        text, read = question
        reply = ask(text, wrong).strip().lower()
        wrong = ""
        if reply in ("s", "q") or (reply == "b" and not known):
            return reply  # type: ignore[return-value]  # the literals of the line above
        if reply == "b":
            known.pop()
        elif reply in ("?", "help"):
            wrong = help_text(n, safety)
        else:
            try:
                known.append(read(reply))
            except ValueError as error:
                wrong = f"{error}; ? for help"


def _next_question(n: int, safety: bool, given: dict[str, Any]) -> tuple[str, Callable[[str], dict]] | None:
    """The text and the reader of what is to be asked next; None: all is known."""
    if "ranks" not in given:
        if n == 2:
            return "which is better: 1, 2 or t (tie)?", read_choice
        return "order, best first, such as 2 1=3?", lambda reply: {"ranks": read_order(reply, n)}
    if n == 2 and "rating" not in given and given["ranks"][0] != given["ranks"][1]:
        steps = ", ".join(f"{i} {name}" for i, name in reversed(list(enumerate(RATINGS))))
        return f"by how much: {steps}?", lambda reply: {"rating": read_rating(reply)}
    if safety and "safe" not in given:
        return f"is each safe: y or n, {n} times?", lambda reply: {"safe": read_safe(reply, n)}
    return None


def help_text(n: int, safety: bool) -> str:
    """The keys, a line each."""
    two = (
        "1, 2      this answer is better; 13 says with it: by how much, 3",
        *(f"{i}         {name}" for i, name in reversed(list(enumerate(RATINGS)))),
        "t         a tie",
    )
    more = (f"2 1=3     the order, best first, each of 1 to {n} once; = is a tie", "t         a tie of all")
    safe = ("y n       safe or not, one for each answer as shown",) if safety else ()
    rest = ("s         skip", "b         back: undo the last reply", "q         quit; everything is saved")
    return "\n".join((*(two if n == 2 else more), *safe, *rest))


def read_choice(reply: str) -> dict[str, Any]:
    """Of "1", "2", "t", "13" or "1 3".

    Raises:
        ValueError: it is none of these.
    """
    if reply == "t":
        return {"ranks": (0, 0)}
    if not (found := re.fullmatch(r"([12])\s*([0-3]?)", reply)):
        raise ValueError(f"{reply!r} is not 1, 2 or t")
    ranks = {"ranks": (0, 1) if found[1] == "1" else (1, 0)}
    return {**ranks, "rating": int(found[2])} if found[2] else ranks


def read_rating(reply: str) -> int:
    """An index of RATINGS.

    Raises:
        ValueError: it is none.
    """
    if reply not in ("0", "1", "2", "3"):
        raise ValueError(f"{reply!r} is not 3, 2, 1 or 0")
    return int(reply)


def read_order(reply: str, n: int) -> tuple[int, ...]:
    """The rank of each of n answers.

    >>> read_order("2 1=3", 3)
    (1, 0, 1)

    Raises:
        ValueError: it is no order of 1 .. n.
    """
    if reply == "t":
        return (0,) * n
    groups = re.sub(r"\s*=\s*", "=", reply).replace(",", " ").replace(">", " ").split()
    order = [group.split("=") for group in groups]
    numbers = [number for group in order for number in group]
    if wrong := [number for number in numbers if number not in map(str, range(1, n + 1))]:
        raise ValueError(f"{wrong[0]!r} is not one of 1 to {n}")
    if again := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"{again[0]} is there twice")
    if missing := [str(i) for i in range(1, n + 1) if str(i) not in numbers]:
        raise ValueError(f"{', '.join(missing)} is missing")
    ranks = {number: rank for rank, group in enumerate(order) for number in group}
    return tuple(ranks[str(i)] for i in range(1, n + 1))


def read_safe(reply: str, n: int) -> tuple[bool, ...]:
    """Of "y n" or "yn".

    Raises:
        ValueError: it is not n times y or n.
    """
    letters = re.sub(r"[\s,]", "", reply)
    if not re.fullmatch(f"[yn]{{{n}}}", letters):
        raise ValueError(f"{reply!r} is not {n} times y or n")
    return tuple(letter == "y" for letter in letters)


def make_row(item: Item, order: Sequence[int], decision: Decision, labeller: str, seconds: float) -> dict[str, Any]:
    """The row that is kept: a pair, or, of a tie or more than two answers, a ranking; lists go best answer first.

    >>> {"labeller": "ann", "id": "sum-1", "prompt": "2+2?", "chosen": "4", "rejected": "5", "rating": 3, ...}
    """
    places = sorted(range(len(order)), key=lambda place: decision.ranks[place])
    best_first = [order[place] for place in places]
    answers = [written(item.answers[i], "assistant") for i in best_first]
    pair = len(answers) == 2 and not decision.tie
    ranked = {"answers": answers, "ranks": [decision.ranks[place] for place in places]}
    return {
        "labeller": labeller,
        "id": item.id,
        "prompt": written(item.prompt, "user"),
        **(dict(zip(("chosen", "rejected"), answers, strict=True)) if pair else ranked),
        **({} if decision.rating is None else {"rating": decision.rating}),
        **({} if decision.safe is None else {"safe": [decision.safe[place] for place in places]}),
        **item.tags,
        **({} if item.models is None else {"models": [item.models[i] for i in best_first]}),
        "shown": [place + 1 for place in places],  # where each answer stood on the screen
        "source": [item.sources[i] for i in best_first],  # its number in the row of candidates
        "seconds": round(seconds, 1),
    }


def written(messages: Sequence[Message], role: str) -> str | list[dict[str, str]]:
    """As a column has it: one message of this role is a string."""
    alone = len(messages) == 1 and messages[0]["role"] == role
    return messages[0]["content"] if alone else [dict(message) for message in messages]


def skip_row(item: Item, labeller: str, reason: str) -> dict[str, Any]:
    """The row that says why an item was not labelled.

    >>> {"labeller": "ann", "id": "sum-2", "skipped": "no two answers differ", "origin": "candidates.jsonl:2"}
    """
    return {"labeller": labeller, "id": item.id, "skipped": reason, "origin": item.origin}


def is_label(row: Any) -> bool:
    """Whether a JSON value is what `make_row` makes, as far as anything here depends on it."""
    return (
        _has(row, labeller=str, id=str, shown=list, seconds=int | float)
        and isinstance(row.get("ranks", []), list)
        and ("ranks" in row or "chosen" in row)
        and len(row["shown"]) >= 2
    )


def is_skip(row: Any) -> bool:
    """Whether a JSON value is what `skip_row` makes, as far as anything here depends on it."""
    return _has(row, labeller=str, id=str, skipped=str)


def _has(row: Any, **kinds: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())
