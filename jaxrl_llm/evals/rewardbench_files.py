"""Files of RewardBench and LLMBar, and of preferences as one trains on them, read as Questions.

RewardBench 1:  {"prompt": "Who?", "chosen": "Goethe", "rejected": "Nobody", "subset": "mt-bench-easy", "id": 31}
RewardBench 2:  {"id": "7", "prompt": "Who?", "chosen": ["Goethe"], "rejected": ["Schiller", "Kleist", "Nobody"],
                 "num_correct": 1, "total_completions": 4, "subset": "Factuality"}
LLMBar:         [{"input": "Who?", "output_1": "Nobody", "output_2": "Goethe", "label": 2}, ...]

In these a prompt is a string or messages; an answer a string, a list of one, or messages.  Preferences are rows of any
format of `data.row_formats` that compares answers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxrl_llm.data.chat.template import check_messages
from jaxrl_llm.data.examples import Answer, Comparison, Message
from jaxrl_llm.data.inputs import find_inputs, form_by_name
from jaxrl_llm.data.records import Record, parse_row, read_records
from jaxrl_llm.data.row_formats import recognise
from jaxrl_llm.data.turns import check_answer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals.rewardbench import SECTIONS, TIES, Question, Version

FORMS = {".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".json": "json", ".json.gz": "json", ".parquet": "parquet"}
LLMBAR = {  # name of the file -> the subset of RewardBench 1 that it is
    "llmbar_natural": "llmbar-natural",
    "llmbar_adversarial_neighbor": "llmbar-adver-neighbor",
    "llmbar_adversarial_gptinst": "llmbar-adver-GPTInst",
    "llmbar_adversarial_gptout": "llmbar-adver-GPTOut",
    "llmbar_adversarial_manual": "llmbar-adver-manual",
}


def read_questions(paths: Iterable[str], holdout_rows: int | None = None) -> list[Question]:
    """The questions of files, directories or globs, in order; all of one version of RewardBench.

    A row without a subset has its file's name for one.  Columns that are not needed are ignored.  `holdout_rows` takes
    the last so many rows of each file, as `data.holdout_rows` does.

    Raises:
        UserError: a file is missing or of another form; says file:line, what was expected and what was found.
    """
    inputs = find_inputs(
        tuple(paths), lambda file: form_by_name(file, FORMS, "name files of these"), "test", tfds=False
    )
    questions = []
    for item in inputs:
        records: Iterable[Record] = read_records(item)
        if holdout_rows is not None:
            records = list(records)
            if len(records) < holdout_rows:
                raise UserError(f"{item.name}: has {len(records)} rows, fewer than --holdout-rows {holdout_rows}")
            records = records[-holdout_rows:]
        questions += [question(parse_row(record), record.origin, Path(item.name)) for record in records]
    if not questions:
        raise UserError(f"{', '.join(item.name for item in inputs)}: no row is in there")
    if len({q.version for q in questions}) > 1:
        one, two = (next(q for q in questions if q.version == version) for version in (1, 2))
        raise UserError(
            f"{one.origin} is of RewardBench 1 and {two.origin} of RewardBench 2, whose figures do not mix\n"
            "  mend: evaluate one after the other"
        )
    refuse_twice(questions)
    return questions


def question(row: Mapping[str, Any], origin: str, file: Path) -> Question:
    """One row, of whichever form it is.

    Raises:
        UserError: of none.
    """
    if {"input", "output_1", "output_2", "label"} <= row.keys():
        return of_llmbar(row, origin, file)
    alone = all(_stands_alone(row.get(name)) for name in ("chosen", "rejected"))
    if {"prompt", "chosen", "rejected"} <= row.keys() and not row.get("system") and alone:
        return of_rewardbench(row, origin, file)
    row = {name: value for name, value in row.items() if value is not None}
    form = recognise(row)
    if form is None or form.gives is not Comparison:
        raise UserError(
            f"{origin}: expected the columns prompt, chosen, rejected (RewardBench); input, output_1, output_2, label "
            f"(LLMBar); or those of another format that compares answers, and found {', '.join(row) or 'none'}"
        )
    try:
        example = form.read(row, origin)
    except UserError as error:
        raise UserError(f"{origin}: a row of the format {form.name}: {error}") from error
    assert isinstance(example, Comparison)
    return of_comparison(example, file)


def of_comparison(example: Comparison, file: Path) -> Question:
    """A row of preferences; its best answers are right, and all of them where they are alike or tie."""
    order = sorted(range(len(example.answers)), key=lambda i: example.ranks[i])
    answers, ranks = tuple(example.answers[i] for i in order), tuple(example.ranks[i] for i in order)
    if all(answer == answers[0] for answer in answers):
        ranks = (0,) * len(answers)
    subset = _subset(example.subset, 1, file)
    return Question(1, example.prompt, answers, ranks.count(ranks[0]), subset, example.origin, example.origin, ranks)


def of_llmbar(row: Mapping[str, Any], origin: str, file: Path) -> Question:
    """A row of LLMBar, whose subset the file's name tells."""
    subset = LLMBAR.get(file.name.split(".")[0].lower())
    if subset is None:
        raise UserError(
            f"{file}: the name does not tell the subset of LLMBar\n  mend: name it one of {', '.join(LLMBAR)} (.json)"
        )
    if row["label"] not in (1, 2) or isinstance(row["label"], bool):
        raise UserError(f"{origin}: label is 1 or 2, the number of the better output, and not {row['label']!r}")
    outputs = tuple(_answer(row[name], f"{origin}: {name}") for name in ("output_1", "output_2"))
    right_first = outputs if row["label"] == 1 else outputs[::-1]
    return Question(1, _prompt(row["input"], f"{origin}: input"), right_first, 1, subset, origin, origin)


def of_rewardbench(row: Mapping[str, Any], origin: str, file: Path) -> Question:
    """A row of RewardBench 1, or of 2, which counts its answers."""
    version: Version = 2 if {"num_correct", "total_completions"} & row.keys() else 1
    chosen, rejected = (_answers(row[name], f"{origin}: {name}") for name in ("chosen", "rejected"))
    if not isinstance(row.get("subset"), str | None):
        raise UserError(f"{origin}: subset is a name, and not {row['subset']!r:.80}")
    subset = _subset(row.get("subset"), version, file)
    counts = {"num_correct": len(chosen), "total_completions": len(chosen) + len(rejected)}
    for name, count in counts.items():
        if row.get(name, count) != count:
            raise UserError(f"{origin}: {name} is {row[name]!r}, but chosen and rejected make it {count}")
    if (version == 1 and len(rejected) > 1) or (len(chosen) > 1 and (version == 1 or subset != TIES)):
        expected = "one answer each in chosen and rejected" if version == 1 else "one answer in chosen"
        raise UserError(f"{origin}: expected {expected}, and found {len(chosen)} and {len(rejected)}")
    identity = str(row.get("id", origin))
    if version == 2 and subset == TIES and identity.partition(":")[0] not in ("ref", "tied"):
        raise UserError(
            f'{origin}: the id of a question of Ties is "ref:NUMBER" or "tied:NUMBER", and not {identity!r}'
        )
    prompt = _prompt(row["prompt"], f"{origin}: prompt")
    return Question(version, prompt, (*chosen, *rejected), len(chosen), subset, identity, origin)


def refuse_twice(questions: Iterable[Question]) -> None:
    """A UserError where a question of Ties comes twice: only one of them could count."""
    seen: dict[str, str] = {}
    for each in questions:
        if each.subset == TIES and seen.setdefault(each.id, each.origin) != each.origin:
            raise UserError(f"{each.origin}: the id {each.id} of Ties was there before, at {seen[each.id]}")


def _subset(name: str | None, version: Version, file: Path) -> str:
    """A subset as the suite spells it; without a name that of the file."""
    name = name or file.name.split(".")[0]
    known = {subset.lower(): subset for section in SECTIONS[version].values() for subset in section}
    return known.get(name.lower(), name)


def _stands_alone(answer: Any) -> bool:
    """Whether an answer is a text, some texts, or messages that begin with the assistant's."""
    if isinstance(answer, list) and answer and isinstance(answer[0], Mapping):
        return answer[0].get("role") == "assistant"
    return not isinstance(answer, Mapping)


def _prompt(value: Any, where: str) -> tuple[Message, ...]:
    """A string is what the user says."""
    if isinstance(value, str) and value:
        return ({"role": "user", "content": value},)
    return _messages(value, where)


def _answers(value: Any, where: str) -> tuple[Answer, ...]:
    """One answer, or a list of some."""
    if isinstance(value, list) and value and not all(isinstance(each, Mapping) for each in value):
        return tuple(_answer(each, where) for each in value)
    return (_answer(value, where),)


def _answer(value: Any, where: str) -> Answer:
    """A string, possibly empty, is what the assistant says."""
    if isinstance(value, str):
        return ({"role": "assistant", "content": value},)
    messages = _messages(value, where)
    try:
        check_answer(messages)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return messages


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: expected a text or messages, and found {value!r:.80}")
    try:
        check_messages(value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return tuple({"role": each["role"], "content": each["content"]} for each in value)
