"""Shows rows and examples as text: what is only read, what is trained on, where it ends, what is left out."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from jaxrl_llm.data.build_sequences import describe
from jaxrl_llm.data.chat_rows import ChatRows
from jaxrl_llm.data.config import DataConfig, StoredDataConfig
from jaxrl_llm.data.corpora import open_corpora
from jaxrl_llm.data.mixture import named_corpora
from jaxrl_llm.data.read_examples import recognised
from jaxrl_llm.data.rows import PackedRows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer, make_tokenizer
from jaxrl_llm.types import Labelled, Pairs, Tokens

TRAINED, END, READ, PADDING, BOUNDARY = "green", "green reverse", "grey50", "dim", "bold blue"
RATINGS = {3: "significantly better", 2: "better", 1: "slightly better", 0: "negligibly better"}
LABELS = {1: "wanted", 0: "unwanted"}
SAFE = {1: "safe", 0: "unsafe"}


def inspect(config: Any, n: int, console: Console) -> None:
    """Print the sizes and the first `n` rows or examples of each corpus of a root config.

    Of that its `data`, `tokenizer` and, for judged answers, what its `algo` consumes are read.

    Raises:
        UserError: the data cannot be read, see `open_corpora`.
    """
    data, tokenizer = config.data, make_tokenizer(config.tokenizer)
    corpora = named_corpora(data)
    for name, store in open_corpora(data, tokenizer, noun=noun_of(config)).items():
        lines, panels = _show(store, corpora[name], data, tokenizer)
        console.print("\n".join([f"{name}: {store.path}", *lines]), markup=False, highlight=False)
        for panel in itertools.islice(panels, n):
            console.print(panel)
    legend = [("trained", TRAINED), ("its end", END), ("only read", READ), ("padding", PADDING)]
    kinds = [kind for kind in legend if kind[0] != "its end" or not isinstance(data, DataConfig)]
    console.print(Text("  ").join(Text(*kind) for kind in kinds))


def noun_of(config: Any) -> type:
    """What a config's data become: Tokens, or of judged answers Labelled or Pairs, as its algorithm reads."""
    if config.data.kind != "preferences":
        return Tokens
    return Labelled if config.algo.consumes is Labelled else Pairs


def summary(store: SequenceStore, corpus: Any) -> list[str]:
    """How the rows of a corpus are written, and what became of them."""
    return [recognised(corpus), describe(store)]


def _show(
    store: TokenStore | SequenceStore, corpus: Any, data: StoredDataConfig, tokenizer: Tokenizer
) -> tuple[list[str], Iterator[Panel]]:
    """What is said of a corpus, and its rows or examples."""
    if isinstance(store, TokenStore):
        assert isinstance(data, DataConfig)
        rows = PackedRows(store, data.length, data.packing, data.isolate_documents)
        size = (
            f"{store.n_documents:,} documents, {store.n_tokens:,} tokens of {store.n_bytes / store.n_tokens:.2f} bytes"
        )
        return [f"{size}, {_packed(rows, data.packing)}"], (row_panel(rows, i, tokenizer) for i in range(len(rows)))
    lines = summary(store, corpus)
    if data.kind == "preferences":
        return lines, (example_panel(store, i, tokenizer) for i in range(store.n_examples))
    chats = ChatRows(store, data.length, data.packing)
    return [*lines, _packed(chats, data.packing)], (chat_panel(chats, i, tokenizer) for i in range(len(chats)))


def _packed(rows: PackedRows | ChatRows, packing: str) -> str:
    return f"{len(rows):,} rows of {rows.length} ({packing}, {rows.index.fill:.2%} full)"


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
    text.append(_padding(rows.length - end), PADDING)
    return Panel(text, title=f"row {row}: {len(pieces)} document(s), {end / rows.length:.1%} full", title_align="left")


def chat_panel(rows: ChatRows, row: int, tokenizer: Tokenizer) -> Panel:
    """One row of conversations."""
    text, end, pieces = Text(), 0, rows.index[row].tolist()
    for example, _, size in pieces:
        end += size
        cut = ", cut to fit" if rows.store.cut[example] else ""
        text.append(f"conversation {example}{cut}\n", BOUNDARY)
        text.append(_weighed(*rows.store.answer(example, 0), tokenizer)).append("\n")
    text.append(_padding(rows.length - end), PADDING)
    trained = np.count_nonzero(rows[row].weights_T) / rows.length
    title = f"row {row}: {len(pieces)} conversation(s), {end / rows.length:.1%} full, {trained:.1%} trained"
    return Panel(text, title=title, title_align="left")


def example_panel(store: SequenceStore, example: int, tokenizer: Tokenizer) -> Panel:
    """A prompt, and its answers from the best on."""
    first, end = store.answer_starts[example : example + 2].tolist()
    prompt = store.prompt(example).tolist()
    text = Text().append(_spell(prompt, [READ] * len(prompt), tokenizer)).append("\n")
    for answer in np.argsort(store.ranks[first:end], kind="stable").tolist():
        said = [f"answer {answer}", LABELS.get(int(store.label[example]), f"rank {store.ranks[first + answer]}")]
        said += [SAFE[safe]] if (safe := int(store.safe[first + answer])) in SAFE else []
        text.append(f"{', '.join(said)}\n", BOUNDARY)
        text.append(_weighed(*store.answer(example, answer), tokenizer, continued=True)).append("\n")
    text.rstrip()
    size = len(prompt) + int(store.answer_lengths[first:end].max())
    notes = [f"example {example}: {end - first} answer(s), at most {size} tokens"]
    notes += [] if np.isnan(store.margin[example]) else [f"margin {store.margin[example]:g}"]
    notes += [RATINGS[rating]] if (rating := int(store.rating[example])) in RATINGS else []
    notes += ["about safety"] if store.safety[example] else []
    notes += [f"subset {store.subsets[subset]}"] if (subset := int(store.subset[example])) >= 0 else []
    notes += ["cut to fit"] if store.cut[example] else []
    return Panel(text, title=Text(_shown(", ".join(notes))), title_align="left")


def _padding(n: int) -> str:
    return f"{n} places of padding" if n else "no padding"


def _weighed(ids: np.ndarray, weights: np.ndarray, tokenizer: Tokenizer, continued: bool = False) -> Text:
    """Tokens by their weights: the special one that ends what is trained boxed, and weights other than 1 said."""
    special = {*tokenizer.specials.values(), *tokenizer.stop_ids}
    styles, notes = [], {}
    for n, (id, weight) in enumerate(zip(ids.tolist(), weights.tolist(), strict=True)):
        last = bool(weight) and (n + 1 == len(weights) or weights[n + 1] != weight)
        styles.append((END if last and id in special else TRAINED) if weight else READ)
        if last and weight != 1.0:
            notes[n] = f"(x {weight:g})"
    return _spell(ids.tolist(), styles, tokenizer, notes, continued)


def _spell(
    tokens: list[int],
    styles: Sequence[str],
    tokenizer: Tokenizer,
    notes: dict[int, str] | None = None,
    continued: bool = False,
) -> Text:
    """The text of some tokens, each in its style, special ones by name, with a note after some.

    What a terminal would obey instead of showing is escaped.
    """
    notes = notes or {}
    names = {id: name for name, id in tokenizer.specials.items()} | {
        tokenizer.bos_id: "<bos>",
        tokenizer.eos_id: "<eos>",
    }
    text, decoded, end = Text(), "", 0
    numbered = zip(itertools.count(), tokens, styles)
    for (name, style, note), run in itertools.groupby(
        numbered, lambda token: (names.get(token[1]), token[2], notes.get(token[0]))
    ):
        end += len(list(run))
        before, decoded = decoded, tokenizer.decode(tokens[:end], continued)  # whole: its text depends on those before
        text.append(_shown(name or decoded[len(before) :]), style)
        text.append(note or "", PADDING)
    return text


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
