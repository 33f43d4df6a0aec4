"""One file a verb: `HELP`, `configure(parser)` and `run(args) -> exit code`.

A verb's module imports nothing heavy: jax, the config and rich come inside `run`, so that --help answers at once.
"""

import argparse
from collections.abc import Iterable, Sequence


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments CONFIG and a.b=c, as `args.config` and `args.overrides`."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a name such as pretrain/debug")
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="values that replace the file's, as YAML"
    )


def print_table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Aligned columns: the first bold, the second plain, the others dim.  Lines are never cut."""
    from rich.console import Console
    from rich.text import Text

    table = [*([header] if header else []), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    console = Console(highlight=False)
    for row in table:
        line = Text()
        for cell, width, style in zip(row, widths, ("bold", "", *["dim"] * len(row)), strict=False):
            line.append(cell.ljust(width + 2), style)
        line.rstrip()
        console.print(line, soft_wrap=True)
