"""How rows are written: the formats by name, and which of them a row is in, told from its columns.

Each reader below shows a row in its docstring.  What they have in common:

- A prompt is `prompt` (a string, or a list of messages), `instruction` with `input` and `history`, `conversations`, or
  `messages`; `system` beside it is a system message.  An answer is a string, a message, or a list of messages.
- A message is {"role", "content"} or {"from", "value"}; roles are system, user or human, assistant or gpt.
- Beside judged answers may stand: `safety` (the prompt is about safety: true, false) and `subset` (a name); beside
  compared ones `safe` (whether each answer is safe: a list of true, false, null; chosen before rejected); beside pairs
  `margin` (a number, by how much the better leads) and `rating` (3 or "significantly better", 2 or "better", 1 or
  "slightly better", 0 or "negligibly better").

A column that is null is not there.  A row of the wrong form is a UserError: a column is missing or holds something
else, a role is unknown, the assistant says nothing, answers have no prompt in common, a list of answers has fewer than
two, or ranks and scores are not one each, a label is none.  Of the right form, though nothing is learnt from them, are
empty answers, equal ones, and ties alone: whoever makes sequences of them counts these and leaves them out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxrl_llm.data import row_parts, turns
from jaxrl_llm.data.examples import Comparison, Conversation, Example, Judgement
from jaxrl_llm.data.row_parts import ANSWER, ANSWERS, INSTRUCTION, PROMPT, Row, Slot, needed, present

PAIR = ("chosen", "rejected")
JUDGED: Slot = (*ANSWER, ("output",))
SCORES: Slot = (("scores",), ("ratings",))


@dataclass(frozen=True)
class RowFormat:
    """A way to write rows."""

    name: str
    gives: type[Example]
    reader: Callable[[Row, str], Any]  # (row, origin) -> what it gives
    needs: tuple[Slot, ...]  # each of these must be there
    takes: tuple[Slot, ...] = ()  # and these may be
    fits: Callable[[Row], bool] = lambda row: True  # whether a row that has what it needs is of this format

    def read(self, row: Row, origin: str) -> Example:
        """The example that a row is.

        Raises:
            UserError: the row is of the wrong form: what was expected, and found; not where.
        """
        for slot in self.needs:
            needed(row, slot)
        return self.reader(row, origin)

    def columns(self, row: Row) -> list[str]:
        """Those columns of a row that are read."""
        groups = [next((names for names in slot if names[0] in row), ()) for slot in (*self.needs, *self.takes)]
        return [name for name in row if any(name in names for names in groups)]


def recognise(row: Row) -> RowFormat | None:
    """The format that a row is in; None: no known one."""
    for each in FORMATS.values():
        if all(present(row, slot) for slot in each.needs) and each.fits(row):
            return each
    return None


def read_messages(row: Row, origin: str) -> Conversation:
    """Messages, each with a `weight` if it wants one: what its tokens count if they are trained on.

    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "weight": 1}]}
    """
    return row_parts.conversation_of(row, "messages", origin)


def read_sharegpt(row: Row, origin: str) -> Conversation:
    """Turns of a human and of gpt.

    {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "system": "Be brief."}
    """
    return row_parts.conversation_of(row, "conversations", origin)


def read_alpaca(row: Row, origin: str) -> Conversation:
    """An instruction, its input and the output; `history` holds earlier [question, answer], trained on alike.

    {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["Hi!", "Hello."]], "system": "Be brief."}
    """
    prompt = row_parts.prompt_of(row, "instruction")
    answer = row_parts.answer_of(row["output"], prompt, "output")
    row_parts.check_answers(prompt, (answer,))
    return Conversation((*prompt, *answer), None, origin)


def read_completion(row: Row, origin: str) -> Conversation:
    """A prompt and its completion, `answer` or `response`, which alone is trained on.

    {"prompt": "2+2?", "completion": "4"}
    {"prompt": [{"role": "user", "content": "2+2?"}], "completion": [{"role": "assistant", "content": "4"}]}
    """
    prompt, column = row_parts.prompt_of(row, "prompt"), needed(row, ANSWER)
    answer = row_parts.answer_of(row[column], prompt, column)
    row_parts.check_answers(prompt, (answer,))
    said = row[column]
    weights = turns.weights_of(said, column) if isinstance(said, list) else None
    return row_parts.after_prompt(prompt, answer, origin, None if weights is None else weights[-len(answer) :])


def read_pair(row: Row, origin: str) -> Comparison:
    """A better and a worse answer; without a prompt, it is the turns that both begin with.

    {"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 1.5, "rating": "better", "safe": [true, true]}
    {"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5"}
    {"conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": "4"}, "rejected": "5"}
    {"chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], "rejected": \
[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}]}
    """
    if present(row, PROMPT) is None:
        whole = [turns.turns_of(row[name], "assistant", name) for name in PAIR]
        prompt, answers = turns.split_common(whole)
        return row_parts.pair_of(row, row_parts.with_system(row, prompt, PAIR[0]), answers, origin)
    prompt = row_parts.prompt_of(row)
    return row_parts.pair_of(row, prompt, tuple(row_parts.answer_of(row[name], prompt, name) for name in PAIR), origin)


def read_dialogues(row: Row, origin: str) -> Comparison:
    r"""Two dialogues as text, of which the turns that both begin with are the prompt.

    {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"}
    """
    return row_parts.pair_of(row, *turns.split_common([turns.dialogue_of(row[name], name) for name in PAIR]), origin)


def read_ranked(row: Row, origin: str) -> Comparison:
    """Answers from best to worst; or in any order with `ranks`, the lowest the best, equal ones a tie.

    {"prompt": "2+2?", "answers": ["4", "5", "a fish"], "safety": false, "subset": "sums"}
    {"prompt": "2+2?", "responses": ["5", "4", "6"], "ranks": [2, 1, 2]}
    {"instruction": "Add.", "input": "2+2", "output": ["4", "5", "a fish"], "history": []}
    """
    prompt, answers = row_parts.answers_of(row)
    ranks = row_parts.numbers_of(row, "ranks", len(answers)) if "ranks" in row else [*map(float, range(len(answers)))]
    return row_parts.comparison_of(row, prompt, answers, row_parts.places_of(ranks), origin)


def read_scored(row: Row, origin: str) -> Comparison:
    """Answers with a score each, the highest the best, equal ones a tie.

    {"prompt": "2+2?", "answers": ["5", "4", "a fish"], "scores": [2.5, 5, 0], "safe": [true, true, null]}
    """
    prompt, answers = row_parts.answers_of(row)
    scores = row_parts.numbers_of(row, needed(row, SCORES), len(answers))
    return row_parts.comparison_of(row, prompt, answers, row_parts.places_of([-score for score in scores]), origin)


def read_labelled(row: Row, origin: str) -> Judgement:
    """An answer that is wanted (true, 1) or not (false, 0); in a conversation, what follows its last question.

    {"prompt": "2+2?", "completion": "4", "label": true}
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}], "label": 0}
    """
    column = present(row, JUDGED)
    prompt = row_parts.prompt_of(row)
    if column is None:
        prompt, (answer,) = turns.split_common([prompt])
    else:
        answer = row_parts.answer_of(row[column], prompt, column)
    row_parts.check_answers(prompt, (answer,))
    return Judgement(prompt, answer, turns.flag_of(row["label"], "label"), origin, **row_parts.tags_of(row))


def _columns(*names: str) -> tuple[Slot, ...]:
    return tuple(((name,),) for name in names)


def _prompt_apart(row: Row) -> bool:
    """Whether the prompt does not stand in the answers' texts."""
    return present(row, PROMPT) is not None or not all(isinstance(row[name], str) for name in PAIR)


def _several(row: Row) -> bool:
    """Whether `output`, if that is what the answers are, holds several."""
    return needed(row, ANSWERS) != "output" or isinstance(row["output"], list)


_TAGS = _columns("safety", "subset")
_COMPARED = (*_TAGS, *_columns("safe"))
_PAIRED = (*_COMPARED, *_columns("margin", "rating"))
_SYSTEM, _RANKS = _columns("system", "ranks")

FORMATS: Mapping[str, RowFormat] = {
    each.name: each
    for each in (  # a row is in the first that it fits
        RowFormat("pairs", Comparison, read_pair, _columns(*PAIR), (PROMPT, _SYSTEM, *_PAIRED), _prompt_apart),
        RowFormat("hh", Comparison, read_dialogues, _columns(*PAIR), _PAIRED),
        RowFormat("scored", Comparison, read_scored, (PROMPT, ANSWERS, SCORES), (_SYSTEM, *_COMPARED), _several),
        RowFormat("ranked", Comparison, read_ranked, (PROMPT, ANSWERS), (_SYSTEM, _RANKS, *_COMPARED), _several),
        RowFormat("labelled", Judgement, read_labelled, (PROMPT, *_columns("label")), (JUDGED, _SYSTEM, *_TAGS)),
        RowFormat("alpaca", Conversation, read_alpaca, ((INSTRUCTION,), *_columns("output")), (_SYSTEM,)),
        RowFormat("completion", Conversation, read_completion, (*_columns("prompt"), ANSWER), (_SYSTEM,)),
        RowFormat("messages", Conversation, read_messages, _columns("messages"), (_SYSTEM,)),
        RowFormat("sharegpt", Conversation, read_sharegpt, _columns("conversations"), (_SYSTEM,)),
    )
}
COLUMNS = tuple(
    dict.fromkeys(
        name for each in FORMATS.values() for slot in (*each.needs, *each.takes) for names in slot for name in names
    )
)
