"""A conversation as tokens, and which of them the assistant wrote."""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from jaxrl_llm.data.chat.layout import Layout, Turn, lay_out
from jaxrl_llm.data.chat.template import Message, Template, check_messages
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError


class ChatTokens(NamedTuple):
    """Ids, and for each whether the assistant wrote it, so that one trains on it."""

    ids: list[int]
    trained: list[bool]


class _Special(NamedTuple):
    """A special token at the characters begin .. end of a text."""

    begin: int
    end: int
    id: int


class _Span(NamedTuple):
    """The characters begin .. end of a text are an answer; `ended`: with the token that ends it."""

    message: int
    begin: int
    end: int
    ended: bool


def tokenize_chat(
    tokenizer: Tokenizer, template: Template, messages: Sequence[Message], train_on: Literal["all", "last"] = "all"
) -> ChatTokens:
    """The tokens of a conversation: BOS exactly once, and each answer with the token that ends it.

    That token is the special one that the template writes after an answer, else EOS, put in there.  Only the template
    makes special tokens: a message that spells one is text.  An answer begins where the prompt for it ends, so it
    follows the very tokens that `tokenize_prompt` makes.

    Args:
        tokenizer: that of the model.
        template: from `find_template` for this tokenizer.
        messages: {"role", "content"} each.
        train_on: all the answers, or only the last.

    Raises:
        UserError: there is no answer; the template refuses the messages; or one cannot train with it, since it leaves
            out an answer, changes it, or repeats it.
    """
    check_messages(messages)
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise UserError("a conversation without an answer of the assistant: there is nothing to train on")
    ids, turns = tokenize_turns(tokenizer, template, messages, answers if train_on == "all" else answers[-1:])
    return ChatTokens(ids, [turn is not None for turn in turns])


def tokenize_turns(
    tokenizer: Tokenizer, template: Template, messages: Sequence[Message], wanted: Collection[int]
) -> tuple[list[int], list[int | None]]:
    """The ids of `tokenize_chat`, and for each the number of the message if that is a wanted answer, else None.

    Args:
        tokenizer: that of the model.
        template: from `find_template` for this tokenizer.
        messages: {"role", "content"} each.
        wanted: numbers of the answers to train on.

    Raises:
        UserError: the template refuses the messages, or leaves out a wanted answer, changes it, or repeats it.
    """
    layout = lay_out(template, messages)
    for number in sorted(wanted):
        if isinstance(problem := layout.turns[number], UserError):
            raise UserError(
                f"{problem}, so one cannot train with this template\n  mend: another one (chatml), or conversations "
                "without what it leaves out; training on the last answer alone may do"
            )
    return _encode(tokenizer, template, messages, layout, wanted)


def tokenize_prompt(tokenizer: Tokenizer, template: Template, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation in which it is the assistant's turn.

    Raises:
        UserError: the template refuses the messages.
    """
    try:
        layout = lay_out(template, messages, add_generation_prompt=True)
    except UserError:  # any part of the text may be a message's
        text = template.render(messages, add_generation_prompt=True)
        layout = Layout(text, regions=(), turns={}, closing="", odd=tuple(range(len(messages))))
    return _encode(tokenizer, template, messages, layout, ())[0]


def tokenize_asking(tokenizer: Tokenizer, template: Template, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation in which it is the user's turn: up to where their words begin.

    Raises:
        UserError: the template refuses such a conversation.
    """
    layout = lay_out(template, [*messages, {"role": "user", "content": "?"}])
    begins = [region.begin for region in layout.regions if region.message == len(messages)]
    if not begins:
        raise UserError(f"chat template {template.name}: it does not write what a user says last, so none can ask on")
    before = {n: turn for n, turn in layout.turns.items() if not isinstance(turn, Turn) or turn.end <= begins[0]}
    cut = replace(
        layout,
        text=layout.text[: begins[0]],
        regions=tuple(region for region in layout.regions if region.end <= begins[0]),
        turns=before,
        odd=tuple(n for n in layout.odd if n < len(messages)),
    )
    return _encode(tokenizer, template, messages, cut, ())[0]


def chat_stop_ids(tokenizer: Tokenizer, template: Template) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's, and the one that the template writes after answers."""
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids, trained = tokenize_chat(tokenizer, template, probe)
    except UserError:  # one cannot train with it, but talk
        return tokenizer.stop_ids
    return tokenizer.stop_ids | {ids[max(n for n, by_assistant in enumerate(trained) if by_assistant)]}


def _encode(
    tokenizer: Tokenizer, template: Template, messages: Sequence[Message], layout: Layout, wanted: Collection[int]
) -> tuple[list[int], list[int | None]]:
    """The tokens of the text, cut where answers begin and end, so that no token depends on what comes after them."""
    guard = _guard(tokenizer, template)
    for message in (messages[number] for number in layout.odd):
        pattern = (tokenizer if message["role"] == "assistant" else guard).special_pattern
        if spelled := pattern.search(message["content"]):
            raise UserError(
                f"chat template {template.name}: a message spells {spelled[0]!r}, and what this template makes of it "
                "cannot be told from the template's own\n  mend: another template, or leave it out of the message"
            )
    specials = [found for begin, end in _own_stretches(layout) for found in _find(guard, layout.text, begin, end)]
    spans = list(_spans(tokenizer, guard, layout, specials))
    specials = sorted([*specials, *_of_assistant(tokenizer, guard, layout)])
    ids: list[int] = []
    turns: list[int | None] = []
    done = 0
    for span in (*spans, None):
        begin = len(layout.text) if span is None else span.begin
        ids += _encode_stretch(guard, _parts(layout.text, specials, done, begin), ids)
        turns += [None] * (len(ids) - len(turns))
        if span is not None:
            ids += _encode_answer(guard, _parts(layout.text, specials, span.begin, span.end), ids)
            ids += [] if span.ended else [tokenizer.eos_id]
            turns += [span.message if span.message in wanted else None] * (len(ids) - len(turns))
            done = span.end
    if tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]:
        return [tokenizer.bos_id, *ids], [None, *turns]
    return ids, turns


def _parts(text: str, specials: Sequence[_Special], begin: int, end: int) -> list[str | int]:
    """The characters begin .. end of a text, with special tokens as their ids."""
    parts: list[str | int] = []
    for special in specials:
        if begin <= special.begin and special.end <= end:
            parts += [text[begin : special.begin], special.id]
            begin = special.end
    return [part for part in (*parts, text[begin:end]) if part != ""]


def _encode_stretch(guard: Tokenizer, parts: Sequence[str | int], before: Sequence[int]) -> list[int]:
    """The tokens of some parts that go on after the tokens `before`."""
    if before and before[-1] in guard.specials.values():  # it may take in white space, or have a space put after it
        return guard.encode_parts([before[-1], *parts])[1:]
    return guard.encode_parts(parts, continued=bool(before))


def _encode_answer(guard: Tokenizer, parts: Sequence[str | int], before: Sequence[int]) -> list[int]:
    """`_encode_stretch`, but that the answer keeps its white space where the token before it would take that in."""
    ids = _encode_stretch(guard, parts, before)
    if parts and isinstance(parts[0], str):
        space = parts[0][: len(parts[0]) - len(parts[0].lstrip())]
        if not guard.decode(ids, continued=True).startswith(space):
            return guard.encode_parts(parts, continued=True)
    return ids


def _spans(tokenizer: Tokenizer, guard: Tokenizer, layout: Layout, specials: Sequence[_Special]) -> Iterator[_Span]:
    """Each answer that can be told, with the special token that ends it where the template writes one."""
    stops = tokenizer.stop_ids
    closing = next(_find(guard, layout.closing, 0, len(layout.closing)), None)
    # What stands right after the last answer ends it, as there is nothing to begin; so it does elsewhere.
    closes = closing is not None and not layout.closing[: closing.begin].strip()
    ends = [special for special in specials if special.id != tokenizer.bos_id or special.id in stops]
    for number, turn in sorted(layout.turns.items()):
        if isinstance(turn, Turn):
            written = turn.end if turn.block_end is None else turn.block_end
            inside = [special for special in ends if turn.end <= special.begin and special.end <= written]
            after = [special for special in ends if written <= special.begin and (closes or special.id in stops)][:1]
            if not inside and after and layout.text[written : after[0].begin].strip():
                after = []
            ended = [*inside[-1:], *after]
            yield _Span(number, turn.start, ended[0].end if ended else written, bool(ended))


@functools.lru_cache(maxsize=64)
def _guard(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """The tokenizer, to which every added token that the template writes is special, so that no message makes it."""
    ordinary = tokenizer.added.keys() - tokenizer.specials.keys()
    return tokenizer.guarded(text for text in ordinary if text.strip() and text in template.source)


def _own_stretches(layout: Layout) -> Iterator[tuple[int, int]]:
    """The stretches of the text that come from no message."""
    end = 0
    for region in layout.regions:
        yield end, max(end, region.begin)
        end = max(end, region.end)
    yield end, len(layout.text)


def _find(guard: Tokenizer, text: str, begin: int, end: int) -> Iterator[_Special]:
    for match in guard.special_pattern.finditer(text, begin, end):
        yield _Special(match.start(), match.end(), guard.specials[match[0]])


def _of_assistant(tokenizer: Tokenizer, guard: Tokenizer, layout: Layout) -> Iterator[_Special]:
    """Added tokens in answers, which the assistant writes as it writes any of its vocabulary: `<think>`."""
    for region in layout.regions:
        if region.message in layout.turns and guard is not tokenizer:
            found = _find(guard, layout.text, region.begin, region.end)
            yield from (special for special in found if special.id not in tokenizer.specials.values())
