"""A trained model on a suite: opens what is needed, scores, and hands back the figures of the report."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.alike import same_texts
from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.chat import Template, find_template
from jaxrl_llm.data.config import CorpusConfig
from jaxrl_llm.data.inputs import expand
from jaxrl_llm.data.rows import PackedRows
from jaxrl_llm.data.source import eval_batches
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.errors import UserError
from jaxrl_llm.evals import perplexity as text
from jaxrl_llm.evals.rewardbench import TIES, Question, credit, first, results
from jaxrl_llm.evals.rewardbench_files import read_questions
from jaxrl_llm.evals.score import Text, fit, logp_scorer, reward_scorer, text_scorer, tokenize_answer
from jaxrl_llm.parallel.distributed import is_main, main_first
from jaxrl_llm.parallel.mesh import BATCH_AXES
from jaxrl_llm.saved import Opened, find_model, open_model
from jaxrl_llm.types import Json

NONE = "none"  # the reference that is none
WITHOUT_REFERENCE = ("simpo", "orpo")  # algorithms whose implicit reward is the mean log-probability itself
BETA = 0.1


def evaluate_rewardbench(
    path: str,
    files: Sequence[str],
    *,
    reference: str | None = None,
    beta: float | None = None,
    template: str | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    limit: int | None = None,
    holdout_rows: int | None = None,
) -> tuple[Json, list[Json]]:
    """The accuracies of a model on RewardBench's questions, or on preferences as one trains on them.

    A reward model gives its score.  A language model gives beta (log p - log p_ref), the reward that DPO finds in it;
    without a reference, the mean log-probability of the answer's tokens.

    Args:
        path: the model; see `saved.open_model`.
        files: of RewardBench or LLMBar, or of preferences.
        reference: another model of the same tokenizer; "none"; None: the model that this one was trained from, if its
            algorithm has a reference.
        beta: None: the one it was trained with, else 0.1.
        template: of the conversations; None: the one it was trained with, else the tokenizer's.
        batch_size: rows at a time.
        max_length: tokens of a text; what is longer is cut as `evals.score.fit` says; None: the model's context.
        limit: so many questions of each subset.
        holdout_rows: only the last so many rows of each file.

    Returns:
        What `evals.rewardbench.results` does with `suite`, `model` and `notes`, the sentences that say how it was done;
        and a row for each question: {id, subset, origin, scores, right, credit, cut}.

    Raises:
        UserError: of files, models, template and numbers that are not as described.
    """
    read = read_questions(files, holdout_rows)
    questions = [question for question in read if question.n_right < len(question.answers)]
    if not questions:
        raise UserError(f"{', '.join(files)}: in no row is one answer better than another")
    alike, rankings = len(read) - len(questions), sum(each.version == 1 and len(each.pairs) > 1 for each in questions)
    questions = questions if limit is None else first(questions, limit)
    same_texts({"questions": questions})
    opened = open_model(path, head=None)
    config, tokenizer = opened.config, opened.tokenizer
    reference = choose_reference(opened, path, reference)
    chat = find_template(tokenizer, template)
    longest = max_length or config.model.context
    if longest > config.model.context:
        raise UserError(f"--max-length {longest} is more than the model's context of {config.model.context}")
    whole = tokenize(questions, tokenizer, chat)
    texts = fit(whole, longest, tokenizer.bos_id)
    scores, how = score_answers(opened, texts, reference, beta, batch_size)
    ends = list(itertools.accumulate(len(question.answers) for question in questions))
    groups = list(itertools.pairwise((0, *ends)))
    by_question = [scores[begin:end] for begin, end in groups]
    lost = [len(before.ids) - len(after.ids) for before, after in zip(whole, texts, strict=True)]
    rows: list[Json] = [
        {
            "id": question.id,
            "subset": question.subset,
            "origin": question.origin,
            "scores": [float(score) for score in given],
            "right": question.n_right,
            "credit": None if question.version == 2 and question.subset == TIES else credit(question, given),
            "cut": lost[begin:end],
        }
        for question, given, (begin, end) in zip(questions, by_question, groups, strict=True)
    ]
    figures = {"suite": "rewardbench", "model": path, **results(questions, by_question)}
    figures["notes"] = [
        f"Scores: {how}; template: {chat.name}; texts of up to {longest:,} tokens.",
        *([] if limit is None else [f"Only the first {limit:,} questions of each subset were asked (--limit)."]),
        *([] if holdout_rows is None else [f"Only the last {holdout_rows:,} rows of each file were read."]),
        *([f"{alike:,} rows ask nothing, their answers being alike or of equal rank."] if alike else []),
        *([f"{rankings:,} questions are rankings, which earn the share of their pairs in order."] if rankings else []),
        *_cut_note(rows, longest),
        *_missing_notes(figures),
    ]
    return figures, rows


def score_answers(
    opened: Opened, texts: Sequence[Text], reference: str | None, beta: float | None, batch_size: int
) -> tuple[np.ndarray, str]:
    """A score for each text, and in words what it is.  With a reference, the weights of `opened` are gone after it."""
    if opened.head == "lm" and reference is not None:
        find_reference(reference)  # before anything is scored
    scores = _score(opened, texts, batch_size, "scoring")
    if opened.head != "lm":
        return scores, "the reward model's own score"
    if reference is None:
        lengths = np.asarray([text.written.sum() for text in texts])
        return scores / lengths, "the mean log-probability of an answer's tokens, without a reference"
    for weight in jax.tree.leaves(opened.params):
        weight.delete()  # one model at a time in memory
    beta = beta or getattr(opened.config.algo, "beta", BETA)
    scores = beta * (scores - _score(open_reference(reference, opened.tokenizer), texts, batch_size, "reference"))
    return scores, f"{beta:g} x (log p - log p of the reference {reference})"


def choose_reference(opened: Opened, path: str, asked: str | None) -> str | None:
    """The path of the reference, or None where there shall be none.  Raises UserError where that cannot be known."""
    if opened.head != "lm":
        if asked not in (None, NONE):
            raise UserError(f"--reference {asked}: {path} is a reward model, whose score needs none")
        return None
    # The very checkpoint that training began from, where the run knows it: its own run may have gone on since.
    kind, base = opened.config.algo.kind, opened.card.base
    source = base.path if base is not None and base.path else opened.config.init_from
    if asked is None and kind not in WITHOUT_REFERENCE:
        if source is None:
            raise UserError(
                f"{path} is a language model, and nothing says which one it was trained from, to compare with\n"
                "  mend: --reference MODEL scores log p - log p of that model, as DPO means it;\n"
                "        --reference none scores the mean log-probability of an answer's tokens"
            )
        return source
    return None if asked == NONE else asked


def find_reference(path: str) -> None:
    """Raises UserError where there is no model."""
    try:
        find_model(path)
    except UserError as error:
        raise UserError(f"the reference: {error}\n  or: --reference MODEL names another, --reference none") from error


def open_reference(path: str, tokenizer: Tokenizer) -> Opened:
    """The reference.  Raises UserError where it is not there, no language model, or has other tokens."""
    try:
        reference = open_model(path)
    except UserError as error:
        raise UserError(f"the reference: {error}\n  or: --reference MODEL names another, --reference none") from error
    if reference.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(f"the reference {path} has another tokenizer than the model\n  mend: another --reference")
    return reference


def tokenize(questions: Sequence[Question], tokenizer: Tokenizer, template: Template) -> list[Text]:
    """Every answer of every question, in order.  Raises UserError with the origin of what the template refuses."""
    texts = []
    with progress("tokenising", sum(len(question.answers) for question in questions), "answers") as advance:
        for question in questions:
            for answer in question.answers:
                try:
                    texts.append(tokenize_answer(question.prompt, answer, tokenizer, template))
                except UserError as error:
                    raise UserError(f"{question.origin}: {error}") from error
                advance(1)
    return texts


def evaluate_perplexity(
    path: str,
    files: Sequence[str],
    *,
    field: str = "text",
    length: int | None = None,
    batch_size: int = 16,
    limit: int | None = None,
) -> Json:
    """How well a language model predicts texts, each file a domain.

    Args:
        path: the model; see `saved.open_model`.
        files: of text; see `CorpusConfig.path`.
        field: of JSON rows or parquet, that holds the text.
        length: tokens of a row; None: the model's context.
        batch_size: rows at a time, rounded up to what the devices divide.
        limit: so many rows of each file.

    Returns:
        `suite`, `model`, `notes`, and `domains`: name -> what `evals.perplexity.perplexity` returns.

    Raises:
        UserError: of files and models that are not as described.
    """
    domains = name_domains([file for each in files for file in expand(each)])
    opened = open_model(path)
    context, data = opened.config.model.context, opened.config.data
    length = length or context
    if length > context:
        raise UserError(f"--length {length} is more than the model's context of {context}")
    ways = opened.mesh.shape["data"] * opened.mesh.shape["fsdp"]
    size, sharding = -(-batch_size // ways) * ways, NamedSharding(opened.mesh, PartitionSpec(BATCH_AXES))
    scorer, found = text.make_scorer(opened.model), {}

    def open_rows(file: Path) -> PackedRows:
        corpus = CorpusConfig(path=str(file), field=field)
        return PackedRows(build_store(corpus, "train", opened.tokenizer, data.cache_dir), length)

    for name, file in domains.items():
        rows = main_first(partial(open_rows, file))
        store = rows.store
        same_texts({f"content of {file}": store.fingerprint})
        n_rows = min(len(rows), limit or len(rows))
        with progress(name, n_rows, "rows") as advance:
            batches = (advance(size) or batch for batch in eval_batches(rows, size, sharding, limit))
            bytes_per_token = store.n_bytes / (store.n_tokens - store.n_documents)
            found[name] = text.perplexity(scorer, opened.params, batches, bytes_per_token)
    notes = [f"Rows of {length:,} tokens; a token is predicted from those before it in its document and row."]
    notes += [] if limit is None else [f"Only the first {limit:,} rows of each file were read (--limit)."]
    return {"suite": "perplexity", "model": path, "domains": found, "notes": notes}


def name_domains(files: Sequence[Path]) -> dict[str, Path]:
    """Files by their shortest names that tell them apart."""
    short = [file.name.split(".")[0] or file.name for file in files]
    counts = Counter(short)
    return {str(file) if counts[name] > 1 else name: file for name, file in zip(short, files, strict=True)}


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time that is left, on stderr if that is a terminal; gives what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
    )
    screen = Console(stderr=True)
    shown = screen.is_terminal and is_main()
    with Progress(*columns, TimeRemainingColumn(), console=screen, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)


def _score(opened: Opened, texts: Sequence[Text], batch_size: int, title: str) -> np.ndarray:
    scorer = (logp_scorer if opened.head == "lm" else reward_scorer)(opened.model)
    with progress(title, sum(len(text.ids) for text in texts), "tokens") as advance:
        return text_scorer(scorer, opened.mesh, batch_size)(opened.params, texts, advance)


def _cut_note(rows: Sequence[Json], longest: int) -> list[str]:
    """How many answers were cut, by subset."""
    cut = Counter({row["subset"]: 0 for row in rows})
    for row in rows:
        cut[row["subset"]] += sum(tokens > 0 for tokens in row["cut"])
    if not (total := sum(cut.values())):
        return []
    n_answers = sum(len(row["cut"]) for row in rows)
    where = ", ".join(f"{subset} {n:,}" for subset, n in cut.items() if n)
    return [
        f"{total:,} of {n_answers:,} answers with their prompts were longer than {longest:,} tokens and were cut, the "
        f"prompt at its start and alike for all answers to it, then answers at their ends: {where}."
    ]


def _missing_notes(figures: Json) -> list[str]:
    """What of the suite was not asked; equal scores; Ties without partner."""
    notes = [
        f"{name} is computed without {', '.join(section['missing'])}."
        for name, section in figures["sections"].items()
        if section["missing"]
    ]
    if figures["overall"] and figures["overall"]["missing"]:
        notes.append(f"The overall figure is that without {', '.join(figures['overall']['missing'])}.")
    if ties := sum(subset["ties"] for subset in figures["subsets"].values()):
        worth = (
            "counts as wrong" if figures["version"] == 1 else "earns 1/k among k of equal scores, and in Ties nothing"
        )
        n = sum(subset["questions"] for subset in figures["subsets"].values())
        notes.append(f"In {ties:,} of {n:,} questions the right answer and a wrong one score the same, which {worth}.")
    unpaired = figures["subsets"].get(TIES, {}).get("unpaired", 0)
    return notes + [f"{unpaired:,} numbers of {TIES} lack one of their two questions."] * bool(unpaired)
