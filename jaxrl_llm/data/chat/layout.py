"""Where in a template's text the messages stand, and what of it the assistant wrote.

A template is a program: it may trim a message, drop it, or say it twice.  So a conversation is rendered a second time
with marks, characters that occur nowhere else, around each message but inside the white space at its ends, which the
template may trim.  Without the marks that text must be the first one; then they say where the messages are.  More
renderings tell what white space around an answer is the answer's own, and where the prompt for it ends.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxrl_llm.data.chat.template import Message, Template, check_messages
from jaxrl_llm.errors import UserError

PRIVATE = range(0xF0000, 0x10FFFE)  # characters without a meaning

Pair = tuple[str, str]  # the marks before and after a message


@dataclass(frozen=True)
class Region:
    """The characters begin .. end of a text come from a message."""

    message: int
    begin: int
    end: int


@dataclass(frozen=True)
class Turn:
    """What the assistant writes: from the end of its prompt, `start`, to the end of its words, `end`.

    `block_end`: where the template's generation block around it ends, if it has such blocks.
    """

    start: int
    end: int
    block_end: int | None


@dataclass(frozen=True)
class Layout:
    """A conversation as text, whose parts come from the messages or are the template's own."""

    text: str
    regions: tuple[Region, ...]
    """In order; the rest is the template's."""
    turns: Mapping[int, Turn | UserError]
    """By number of the message, of each that is the assistant's; an error says why it cannot be told."""
    closing: str
    """What the template writes after the last answer, when nothing follows that."""
    odd: tuple[int, ...]
    """Numbers of the messages that are not written, or not as they are; parts of them may be outside the regions."""


@dataclass(frozen=True)
class _Marked:
    """A text without its marks; where the messages' marks were, as (mark, position); where the blocks were."""

    text: str
    marks: tuple[tuple[str, int], ...]
    blocks: tuple[tuple[int, int], ...]

    def gaps(self) -> list[tuple[str, str, int]]:
        """Each stretch between two marks, which are "" at the ends of the text, with its length."""
        ends = [("", 0), *self.marks, ("", len(self.text))]
        return [(left, right, end - begin) for (left, begin), (right, end) in itertools.pairwise(ends)]


def lay_out(template: Template, messages: Sequence[Message], add_generation_prompt: bool = False) -> Layout:
    """Render a conversation and find its messages.

    Raises:
        UserError: the template refuses the messages, or its own text depends on what is in them.
    """
    check_messages(messages)
    used = set(template.source).union(*(message["content"] for message in messages))
    free = (chr(code) for code in PRIVATE if chr(code) not in used)
    block = next(free), next(free)
    pairs = [(next(free), next(free)) for _ in messages]
    marked = [_mark(message, pair) for message, pair in zip(messages, pairs, strict=True)]
    bare = [_mark(m, pair, m["role"] == "assistant") for m, pair in zip(messages, pairs, strict=True)]
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    calls = [
        *((each, add_generation_prompt) for each in (messages, marked, bare)),
        (marked[: answers[-1] + 1] if answers else marked, False),
        *((marked[:number], True) for number in answers),
    ]
    found = template.render_all(calls, generation_begins=block[0], generation_ends=block[1])
    texts = [text if isinstance(text, UserError) else _read(text, pairs, block) for text in found]
    plain, whole, trimmed, closed, *prompts = texts
    if isinstance(plain, UserError):
        raise plain
    if isinstance(whole, UserError) or whole.text != plain.text:
        raise UserError(f"chat template {template.name}: what it writes between messages depends on what is in them")

    regions = {number: list(_regions(whole, pair, number, messages)) for number, pair in enumerate(pairs)}
    kept = _kept_space(whole, trimmed, messages, pairs)
    turns: dict[int, Turn | UserError] = {}
    for number, prompt in zip(answers, prompts, strict=True):
        turn = _turn(whole, prompt, pairs[number], regions[number], kept, messages[number]["content"].strip())
        place = f"message {number + 1} of {len(messages)} (assistant)"
        turns[number] = turn if isinstance(turn, Turn) else UserError(f"chat template {template.name}: {place} {turn}")
    closing = ""
    if not isinstance(closed, UserError) and closed.marks:
        closing = closed.text[max(closed.marks[-1][1], *(end for _, end in closed.blocks), 0) :]
    in_order = sorted(itertools.chain.from_iterable(regions.values()), key=lambda region: region.begin)
    odd = [n for n, message in enumerate(messages) if _problem(whole, regions[n][:1], message["content"].strip())]
    return Layout(plain.text, tuple(in_order), turns, closing, tuple(odd))


def _turn(
    whole: _Marked,
    prompt: _Marked | UserError,
    pair: Pair,
    regions: Sequence[Region],
    kept: Mapping[str, int],
    core: str,
) -> Turn | str:
    """What the assistant writes of an answer, or why that cannot be told."""
    if problem := _problem(whole, regions, core):
        return problem
    begin, end = regions[0].begin - kept.get(pair[0], 0), regions[0].end + kept.get(pair[1], 0)
    if not whole.blocks:
        return Turn(_end_of_prompt(whole, prompt, pair, begin), end, None)
    around = next((block for block in whole.blocks if block[0] <= begin and end <= block[1]), None)
    return "is in no generation block" if around is None else Turn(around[0], end, around[1])


def _mark(message: Message, pair: Pair, trim: bool = False) -> dict[str, str]:
    """The message with marks around its words, and without the white space around those where `trim` says so."""
    content = message["content"]
    core = content.strip()
    before, after = content.split(core, 1) if core else (content, "")
    inside = f"{pair[0]}{core}{pair[1]}"
    return {**message, "content": inside if trim else f"{before}{inside}{after}"}


def _read(text: str, pairs: Sequence[Pair], block: Pair) -> _Marked:
    """A text with its marks taken out."""
    ours = "".join(itertools.chain(block, *pairs))
    pieces = re.split(f"([{ours}])", text)
    ends = list(itertools.accumulate(map(len, pieces[::2])))
    marks = list(zip(pieces[1::2], ends, strict=False))
    blocks = zip(*([end for mark, end in marks if mark == edge] for edge in block), strict=False)
    return _Marked("".join(pieces[::2]), tuple(mark for mark in marks if mark[0] not in block), tuple(blocks))


def _regions(whole: _Marked, pair: Pair, number: int, messages: Sequence[Message]) -> Iterator[Region]:
    """Where a message stands.  A mark without its partner, cut off with a part of the message, has the rest beside."""
    core = messages[number]["content"].strip()
    own = [(mark, position) for mark, position in whole.marks if mark in pair]
    partner = None
    for (mark, position), following in itertools.zip_longest(own, own[1:]):
        if mark == pair[1]:
            begin = position - _common_start(core[::-1], whole.text[:position][::-1]) if partner is None else partner
            yield Region(number, begin, position)
        elif following is None or following[0] == pair[0]:
            yield Region(number, position, position + _common_start(core, whole.text[position:]))
        partner = position if mark == pair[0] else None


def _common_start(a: str, b: str) -> int:
    """How many characters two texts have in common at the start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _problem(whole: _Marked, regions: Sequence[Region], core: str) -> str | None:
    """Why one cannot train on an answer, or None."""
    if len(regions) != 1:
        return "is left out" if not regions else f"is written {len(regions)} times"
    written = whole.text[regions[0].begin : regions[0].end]
    return None if written == core else f"is changed: {core!r:.80} is written as {written!r:.80}"


def _kept_space(
    whole: _Marked, trimmed: _Marked | UserError, messages: Sequence[Message], pairs: Sequence[Pair]
) -> dict[str, int]:
    """By mark, how much of the white space outside it the template keeps of an answer; `trimmed` is without that."""
    if isinstance(trimmed, UserError):
        return {}
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for message, pair in zip(messages, pairs, strict=True):
        if message["role"] == "assistant":
            content = message["content"]
            before[pair[0]] = len(content) - len(content.lstrip())
            after[pair[1]] = len(content.lstrip()) - len(content.strip())
    kept: dict[str, int] = {}
    for (left, right, size), (left_too, right_too, least) in zip(whole.gaps(), trimmed.gaps(), strict=False):
        if (left, right) != (left_too, right_too):
            return {}
        if left in after:
            kept[left] = max(0, min(size - least, after[left]))
        if right in before:
            kept[right] = max(0, min(size - least - kept.get(left, 0), before[right]))
    return kept


def _end_of_prompt(whole: _Marked, prompt: _Marked | UserError, pair: Pair, begin: int) -> int:
    """Where the prompt for an answer that begins at `begin` ends: before, where the answer must say more than words.

    The prompt, rendered alone, writes a text after the last message before the answer; the conversation goes on from
    the same message with the same text, or this is no prompt of its answer.
    """
    own = next(number for number, (mark, _) in enumerate(whole.marks) if mark in pair)
    if isinstance(prompt, UserError) or not prompt.marks or own == 0:
        return begin
    (mark, position), (mark_too, prompt_position) = whole.marks[own - 1], prompt.marks[-1]
    tail = prompt.text[prompt_position:]
    same = mark == mark_too and whole.text[position:begin].startswith(tail)
    return position + len(tail) if same else begin
