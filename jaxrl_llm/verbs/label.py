"""`label CANDIDATES.jsonl OUT.jsonl`: a person compares answers in the terminal, without knowing who wrote which."""

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrl_llm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from jaxrl_llm.data.examples import Message
    from jaxrl_llm.labelling.candidates import Item
    from jaxrl_llm.labelling.session import Session

HELP = """Compare answers in the terminal: which model wrote which is not shown, and their order is shuffled.
Each decision is saved at once; the same command goes on where it stopped."""
KEYS = "1, 2 or t (tie), or an order such as 2 1=3; s skips, b goes back, q quits, ? helps"
NEXT = "reward/stories260k_hh"  # the recipe to go on with: pairs and rankings, ratings or none
SKIPPED = ".skipped"  # behind the name of OUT.jsonl: a glob of *.jsonl does not find it


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    rows = (
        "rows {prompt, answers: [...]}, {prompt, completion} as `generate --n 2` writes, or {prompt, chosen, rejected}"
    )
    parser.add_argument("candidates", metavar="CANDIDATES.jsonl", help=rows)
    parser.add_argument("out", metavar="OUT.jsonl", help="pairs and rankings are appended to it, to be a data.path")
    parser.add_argument("--labeller", default="anonymous", metavar="NAME", help="is in every row; default: anonymous")
    parser.add_argument("--safety", action="store_true", help="ask as well which answers are safe")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after so many")
    parser.add_argument("--seed", type=int, default=0, help="another one shuffles the answers differently (default 0)")
    parser.epilog = f"keys, then Enter: {KEYS}"


def run(args: argparse.Namespace) -> int:
    """Ask until all is labelled or the input ends; returns 0."""
    out = Path(args.out)
    if args.limit is not None and args.limit < 1:
        raise UserError("--limit must be at least 1")
    if not args.labeller.strip():
        raise UserError("--labeller must not be empty")

    from rich.console import Console

    from jaxrl_llm.labelling.candidates import read_candidates
    from jaxrl_llm.labelling.decisions import is_label, is_skip
    from jaxrl_llm.labelling.ledger import Ledger
    from jaxrl_llm.labelling.session import Session

    candidates = read_candidates(Path(args.candidates))
    if out.resolve() == Path(args.candidates).resolve():
        raise UserError(f"{out}: is the file of candidates as well\n  mend: another name for the labels")
    with (
        Ledger(out, is_label) as labelled,
        Ledger(out.with_name(out.name + SKIPPED), is_skip) as skipped,
    ):
        session = Session(candidates.items, labelled, skipped, args.labeller)
        notes = {
            labelled.mended: labelled.mended,
            skipped.mended: skipped.mended,
            f"{candidates.repeated} rows repeat an earlier one, and are not asked again": candidates.repeated,
            f"{session.alike} items are skipped, as no two of their answers differ": session.alike,
        }
        for note in [note for note, is_so in notes.items() if is_so]:
            print(f"note: {note}")
        try:
            ask_all(session, len(candidates.items), Console(highlight=False), args)
        finally:
            print(sum_up(session, out))
    return 0


def ask_all(session: "Session", total: int, console: "Console", args: argparse.Namespace) -> None:
    """Show item after item and keep what is decided, until the end of the items, of --limit or of the input."""
    from jaxrl_llm.labelling.candidates import shown_order
    from jaxrl_llm.labelling.decisions import Decision, decide

    while session.todo and (args.limit is None or session.decided < args.limit):
        item = session.todo[0]
        order = shown_order(args.seed, item)
        number = total - len(session.todo) + 1
        show(item, order, f"{number:,} of {total:,}{time_left(session.seconds_left(args.limit))}", console)
        began = time.monotonic()
        decision = decide(len(order), args.safety, ask)
        if isinstance(decision, Decision):
            session.keep(item, order, decision, time.monotonic() - began)
        elif decision == "s":
            session.skip(item)
        elif decision == "b":
            if not session.back():
                print("nothing to go back to")
        else:
            return


def ask(question: str, wrong: str) -> str:
    """What was typed; the end of the input is "q"."""
    if wrong:
        print(wrong)
    print(question)
    try:
        return input("> ")
    except EOFError:
        print()
        return "q"
    except UnicodeDecodeError:  # no key that is asked for
        return "\N{REPLACEMENT CHARACTER}"


def show(item: "Item", order: list[int], title: str, console: "Console") -> None:
    """The prompt and the answers, in this order and numbered from 1."""
    from rich.panel import Panel
    from rich.text import Text

    from jaxrl_llm.labelling.candidates import shown

    def panel(messages: "tuple[Message, ...]", name: str, style: str) -> Panel:
        return Panel(Text(shown(messages) or "(empty)"), title=name, title_align="left", border_style=style)

    console.rule(title)
    console.print(panel(item.prompt, "prompt", "grey50"))
    for place, i in enumerate(order, start=1):
        console.print(panel(item.answers[i], f"answer {place}", "bold blue"))


def time_left(seconds: float | None) -> str:
    """>>> time_left(170)
    ', 3 min left'
    """
    if seconds is None:
        return ""
    return f", {seconds / 3600:.1f} h left" if seconds >= 5400 else f", {max(1, round(seconds / 60))} min left"


def sum_up(session: "Session", out: Path) -> str:
    """What came of it, and the next command."""
    summary = session.summary()
    lines = [f"{summary.labelled:,} labelled ({summary.ties:,} ties), {summary.skipped:,} skipped, "
             f"{len(session.todo):,} left"]  # fmt: skip
    if summary.first_chosen is not None and summary.first_by_chance is not None:
        lines.append(f"the answer shown first was the best in {summary.first_chosen:.0%}; "
                     f"by chance {summary.first_by_chance:.0%}")  # fmt: skip
    if summary.seconds is not None:
        lines.append(f"{summary.seconds:.0f} s an item (median) -> {out}")
    if summary.labelled > summary.ties:
        lines += ["try next:", f"  jaxrl-llm train {NEXT} init_from=RUN {shlex.quote(f'data.path={out}')}"]
    return "\n".join(lines)
