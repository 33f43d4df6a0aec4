"""The order of stages: each after those that it reads, else as they stand in the file."""

from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter

from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline.source import Source


def ordered(reads: Mapping[str, Set[str]], source: Source) -> list[str]:
    """The names, as far as possible in the order of `reads`.

    Raises:
        UserError: stages that read each other, with file:line of each.
    """
    sorter = TopologicalSorter(reads)
    try:
        sorter.prepare()
    except CycleError as error:
        raise UserError(_circle(error.args[1], list(reads), source)) from None
    position = {name: number for number, name in enumerate(reads)}
    found: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
        found.append(ready.pop(0))
        sorter.done(found[-1])
    return found


def _circle(names: list[str], known: list[str], source: Source) -> str:
    """graphlib gives each before the one that reads it, the first once more at the end."""
    circle = names[:0:-1]
    first = circle.index(min(circle, key=known.index))
    circle = circle[first:] + circle[:first]
    lines = [f"  {source.origin('stages', name)}: stages.{name}" for name in circle]
    says = " reads ".join([*circle, circle[0]])
    return "\n".join([f"{source.origin('stages', circle[0])}: stages read each other: {says}", *lines]) + (
        "\n  mend: let one of them read something else"
    )
