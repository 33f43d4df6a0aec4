"""Whether a stage came to what its pipeline expects of it."""

from collections.abc import Iterator, Sequence

from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline.checks import missing
from jaxrl_llm.pipeline.figures import Figures, figures_of
from jaxrl_llm.pipeline.source import ExpectConfig, near
from jaxrl_llm.pipeline.stage import Stage


def refuse_useless(stage: Stage, later: Sequence[Stage]) -> None:
    """A UserError where a stage that ended did not leave what later ones read, or did not come to what is expected."""
    faults = missing(stage, later)
    if faults:
        again = f"change what it writes, and --redo {stage.name}; or let stage {later[0].name} read what is there"
        raise UserError("\n".join(faults) + f"\n  mend: {again}")
    wrong = [message for _, message in unmet(stage, figures_of(stage))]
    if wrong:
        raise UserError("\n".join(wrong))


def unmet(stage: Stage, found: Figures) -> Iterator[tuple[str, str]]:
    """(figure, message) of each expectation that does not hold."""
    for name, (expect, origin) in (stage.expect or {}).items():
        faults = list(_faults(expect, name, found))
        if faults:
            was = f"went from {found.before[name]:.4g} to" if name in found.before else "is"
            now = f" {was} {found.after[name]:.4g}, and" if name in found.after else ""
            yield (
                name,
                f"stage {stage.name}: {name}{now} {' and '.join(faults)}\n"
                f"  mend: {found.report or stage.directory} says what happened; change the stage and "
                f"--redo {stage.name}, or expect otherwise at {origin}",
            )


def _faults(expect: ExpectConfig, name: str, found: Figures) -> Iterator[str]:
    before, after = found.before.get(name), found.after.get(name)
    if after is None:
        known = near(name, found.after) if found.after else ", which gives none"
        yield f"is expected, and is no figure of this stage{known}"
        return
    if expect.rise is not None and before is None:
        yield f"was to rise by {expect.rise:g}, and it is not known what it was before"
    elif expect.rise is not None and before is not None and not after - before >= expect.rise:
        yield f"was to rise by {expect.rise:g} (it did by {after - before:+.4g})"
    if expect.least is not None and not after >= expect.least:
        yield f"was to be at least {expect.least:g}"
    if expect.most is not None and not after <= expect.most:
        yield f"was to be at most {expect.most:g}"
