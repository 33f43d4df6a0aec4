"""What policies are asked to be compared, and which policies can be: those that read and write the same tokens."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxrl_llm.data.chat import Template, find_template
from jaxrl_llm.data.prompts import ask, conversations_alone, read_prompt_rows
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.rollout.prompts import Prompt
from jaxrl_llm.saved import SavedModel, find_model
from jaxrl_llm.task_evaluation import LONGEST, find_task
from jaxrl_llm.tasks import Task, build_task
from jaxrl_llm.types import Json

PROBLEMS = 500  # prompts, where there are so many


@dataclass(frozen=True)
class Questions:
    """The prompts, in the tokens that every policy reads."""

    prompts: list[Prompt]
    stop_ids: frozenset[int]
    template: Template
    max_new_tokens: int
    task: Task | None  # whose grader says what is right
    settings: Json | None  # of the task

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(len(prompt.ids) for prompt in self.prompts) + self.max_new_tokens


def open_questions(
    path: str,
    tokenizer: Tokenizer,
    *,
    data: Sequence[str] | None,
    task: Sequence[str] | None,
    problems: int | None,
    max_new_tokens: int | None,
    seed: int,
    template: str | None,
) -> Questions:
    """Prompts of files, or problems of a task's test split; see `evaluation.evaluate_best_of_n`.

    Raises:
        UserError: there are none, or not so many; the template refuses one.
    """
    chat, longest = find_template(tokenizer, template), LONGEST
    if data is None:
        config, longest = find_task(path, task)
        built, settings = build_task(config), dataclasses.asdict(config)
        examples = built.examples("test", problems or min(PROBLEMS, built.size("test") or PROBLEMS), seed)
        asked = ask([example.prompt for example in examples], tokenizer, chat)
        found = [
            Prompt(tuple(ids), example.prompt, example.origin, example=example)
            for example, ids in zip(examples, asked.ids, strict=True)
        ]
        return Questions(found, asked.stop_ids, chat, max_new_tokens or longest, built, settings)
    rows = [row for file in data for row in read_prompt_rows(Path(file))]
    if problems is not None and len(rows) < problems:
        raise UserError(f"--problems {problems}: {', '.join(data)}: there are {len(rows)} prompts")
    rows = rows[: problems or PROBLEMS]
    conversations_alone([row.prompt for row in rows])
    asked = ask([row.prompt for row in rows], tokenizer, chat)
    found = [Prompt(tuple(ids), row.prompt, row.origin) for row, ids in zip(rows, asked.ids, strict=True)]
    return Questions(found, asked.stop_ids, chat, max_new_tokens or longest, None, None)


def find_policy(path: str, tokenizer: Tokenizer | None = None) -> SavedModel:
    """A language model that was found and not yet read.

    Raises:
        UserError: it is none, or has another tokenizer than the one that is wanted.
    """
    saved = find_model(path)
    if "lm" not in saved.card.heads.values():
        raise UserError(f"{path}: holds a reward model, no language model")
    own = saved.card.tokenizer
    if tokenizer is not None and own.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--against {path}: it has another tokenizer ({own.kind}, {own.vocab_size:,} ids) than the base "
            f"({tokenizer.kind}, {tokenizer.vocab_size:,} ids), so there is no KL between their answers\n"
            "  mend: runs that were trained from this base"
        )
    return saved


def check_room(questions: Questions, path: str, context: int) -> None:
    """A UserError where a prompt with its answer is longer than a policy's context; with the prompt's origin."""
    for prompt in questions.prompts:
        if len(prompt.ids) + questions.max_new_tokens > context:
            raise UserError(
                f"{prompt.origin}: the prompt has {len(prompt.ids):,} tokens, and with an answer of "
                f"{questions.max_new_tokens:,} it exceeds the context of {context:,} of {path}\n"
                "  mend: a smaller --max-new-tokens, or shorter prompts"
            )


def name_runs(paths: Sequence[str]) -> dict[str, str]:
    """Name -> path: RUN, or RUN@STEP of RUN/checkpoints/STEP, with as many folders before it as tell them apart."""
    parts = {path: Path(path).resolve().parts for path in paths}
    for path, each in parts.items():
        if each[-2] == "checkpoints":
            parts[path] = (*each[:-3], f"{each[-3]}@{each[-1]}")
    for n in range(1, 1 + max(map(len, parts.values()), default=0)):
        named = {"/".join(each[-n:]): path for path, each in parts.items()}
        if len(named) == len(set(parts.values())):
            return named
    return {}
