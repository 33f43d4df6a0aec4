"""Shows packed rows as text: where documents begin and end, what is trained, what is only read, what is padding."""

import itertools
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from jaxrl_llm.data.corpora import open_corpora
from jaxrl_llm.data.rows import PackedRows
from jaxrl_llm.data.tokenizers import Tokenizer, make_tokenizer

TRAINED, READ, PADDING, BOUNDARY = "green", "grey50", "dim", "bold blue"
LEGEND = Text.assemble(("trained", TRAINED), "  ", ("only read", READ), "  ", ("padding", PADDING))


def inspect(config: Any, n_rows: int, console: Console) -> None:
    """Print the sizes and the first `n_rows` rows of each corpus of a root config (its `data` and `tokenizer`).

    Raises:
        UserError: the data cannot be read, see `open_corpora`.
    """
    data, tokenizer = config.data, make_tokenizer(config.tokenizer)
    for name, store in open_corpora(data, tokenizer).items():
        rows = PackedRows(store, data.length, data.packing, data.isolate_documents)
        size = store.n_bytes / store.n_tokens
        text = f"{store.n_documents:,} documents, {store.n_tokens:,} tokens of {size:.2f} bytes"
        packed = f"{len(rows):,} rows of {rows.length} ({data.packing}, {rows.index.fill:.2%} full)"
        console.print(f"{name}: {store.path}\n{text}, {packed}", markup=False, highlight=False)
        for row in range(min(n_rows, len(rows))):
            console.print(row_panel(rows, row, tokenizer))
    console.print(LEGEND)


def row_panel(rows: PackedRows, row: int, tokenizer: Tokenizer) -> Panel:
    """One row; a document's first token here is only read, each later one is predicted from those before it."""
    arrays, pieces = rows[row], rows.index[row].tolist()
    text, end = Text(), 0
    for document, start, size in pieces:
        begin, end = end, end + size
        text.append(f"document {document} from token {start}\n", BOUNDARY)
        tokens = [int(arrays.inputs_T[begin]), *arrays.targets_T[begin:end].tolist()]
        styles = [READ, *(TRAINED if weight else READ for weight in arrays.weights_T[begin:end])]
        text.append(_spell(tokens, styles, tokenizer)).append("\n")
    text.append(f"{rows.length - end} places of padding" if end < rows.length else "no padding", PADDING)
    return Panel(text, title=f"row {row}: {len(pieces)} document(s), {end / rows.length:.1%} full", title_align="left")


def _spell(tokens: list[int], styles: list[str], tokenizer: Tokenizer) -> Text:
    """The text of some tokens, each in its style, special ones by name.

    What a terminal would obey instead of showing is escaped.
    """
    names = {tokenizer.bos_id: "<bos>", tokenizer.eos_id: "<eos>"}
    text, decoded, end = Text(), "", 0
    for (name, style), run in itertools.groupby(
        zip(tokens, styles, strict=True), lambda token: (names.get(token[0]), token[1])
    ):
        end += len(list(run))
        before, decoded = decoded, tokenizer.decode(tokens[:end])  # whole, as a token's text depends on those before it
        shown = name or decoded[len(before) :]
        text.append("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in shown), style)
    return text
