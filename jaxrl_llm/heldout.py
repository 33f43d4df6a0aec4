"""Evaluation while training: what every held-out set says of the state, whatever the algorithm reads."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.assemble import Assembly
from jaxrl_llm.config import Config
from jaxrl_llm.data.build import build_store
from jaxrl_llm.data.build_sequences import open_sequences
from jaxrl_llm.data.config import DataConfig, PreferenceDataConfig, PromptDataConfig
from jaxrl_llm.data.corpora import WANTED, open_holdouts, open_rows
from jaxrl_llm.data.mixture import SINGLE
from jaxrl_llm.data.preferences import Where, eval_groups
from jaxrl_llm.data.rows import PackedRows, Rows
from jaxrl_llm.data.sequences import SequenceStore
from jaxrl_llm.data.source import eval_batches
from jaxrl_llm.data.store import TokenStore
from jaxrl_llm.data.tokenizers import Tokenizer
from jaxrl_llm.evals.perplexity import make_scorer, perplexity
from jaxrl_llm.evals.preference import calibration, compare
from jaxrl_llm.parallel.runtime import in_turn
from jaxrl_llm.types import Mean, Pairs, Params, Tokens, TrainState

MISMATCHED = "/mismatched"  # after a set's name: what KTO measures its answers from
References = Mapping[str, Mapping[str, np.ndarray]]  # set -> corpus or corpus/mismatched -> log-probabilities


class HeldOut(NamedTuple):
    """What is evaluated: rows of tokens, or stores of judged answers, by name."""

    rows: Mapping[str, Rows]
    groups: Mapping[str, SequenceStore]


def open_held_out(config: Config, parts: Assembly, tokenizer: Tokenizer) -> HeldOut:
    """The `holdout` share of each training corpus, and the corpora of `eval`; built where they are not there yet."""
    data, noun, shown = config.data, parts.algo.consumes, not config.logging.quiet
    texts: dict[str, TokenStore] = {}
    for name, corpus in config.eval.corpora.items():
        part: Literal["train", "holdout"] = "holdout" if corpus.holdout else "train"
        texts[name] = build_store(corpus, part, tokenizer, data.cache_dir, data.workers, shown)
    if isinstance(data, PromptDataConfig):
        return HeldOut({name: PackedRows(store, data.pretrain_length) for name, store in texts.items()}, {})
    found = open_holdouts(data, tokenizer, shown, noun=noun)
    found = {"validation" if name == SINGLE else name: store for name, store in found.items()}
    rows: dict[str, Rows] = {}
    if isinstance(data, DataConfig):
        texts = found | texts
        isolated = data.isolate_documents
    else:
        isolated = True
        found = found | open_examples(config, tokenizer, noun)
    if noun is Tokens and not isinstance(data, DataConfig):
        rows = {name: open_rows(store, data) for name, store in found.items()}  # type: ignore[arg-type]  # of chat
    rows |= {name: PackedRows(store, data.length, "concat", isolated) for name, store in texts.items()}
    return HeldOut(rows, found if noun is not Tokens else {})


def eval_size(config: Config) -> int:
    """Rows or examples at a time."""
    return config.eval.batch_size or config.training.batch_size // config.training.micro_batches


def open_examples(config: Config, tokenizer: Tokenizer, noun: type) -> dict[str, SequenceStore]:
    """The corpora of `eval.examples`: their holdout where they have one, else all of them."""
    found: dict[str, SequenceStore] = {}
    if isinstance(config.data, DataConfig | PromptDataConfig):
        return found
    for name, corpus in config.eval.examples.items():
        part: Literal["train", "holdout"] = "holdout" if corpus.holdout or corpus.holdout_rows else "train"
        data = config.data.__class__(**{**vars(config.data), **blank_corpus(), "mix": {name: corpus}})
        found |= open_sequences(data, WANTED[noun], part, tokenizer, not config.logging.quiet)
    return found


def blank_corpus() -> dict[str, Any]:
    """The keys of data that describe a single corpus, as they are when nothing is said."""
    keys = ("path", "format", "columns", "split", "holdout", "holdout_rows", "safety")
    return {key: getattr(PreferenceDataConfig(), key) for key in keys}


def make_evaluation(
    config: Config,
    parts: Assembly,
    held_out: HeldOut,
    references: References | None,
    judge: "Judge | None",
    tasks: Callable[[Params], dict[str, dict[str, float]]] | None = None,
) -> Callable[[TrainState], dict[str, dict[str, Any]]]:
    """`evaluate(state)`: the figures of every held-out set and task, by its name.

    `judge` is asked about groups of answers, `tasks` about the policy's whole weights.
    """
    size = eval_size(config)
    scorer = make_scorer(parts.models["policy"]) if "policy" in parts.models else None

    def evaluate(state: TrainState) -> dict[str, dict[str, Any]]:
        state = parts.shown(state)
        weights = parts.roles(state.params, state.fixed)
        found: dict[str, dict[str, Any]] = {}
        for name, rows in held_out.rows.items():
            assert scorer is not None
            batches = eval_batches(rows, size, parts.rows_sharding, config.eval.max_rows)
            found[name] = perplexity(scorer, weights["policy"], batches, bytes_per_token(rows))
        for name, store in held_out.groups.items():
            assert judge is not None
            refs = None if references is None else references[name]
            found[name] = judged(judge, weights, store, judged_batches(config, parts, name, store, size, refs), parts)
        if tasks is not None:
            policy = parts.whole(state, "policy")
            in_turn(policy)
            found |= tasks(policy)
        return found

    return evaluate


def bytes_per_token(rows: Rows) -> float | None:
    """UTF-8 bytes a target of a text; of conversations nothing, as their template's marks are tokens too."""
    if not isinstance(rows, PackedRows):
        return None
    return rows.store.n_bytes / (rows.store.n_tokens - rows.store.n_documents)


def judged_batches(
    config: Config, parts: Assembly, name: str, store: SequenceStore, size: int, refs: Mapping[str, np.ndarray] | None
) -> Iterator[tuple[Any, Where]]:
    """All examples of a store as batches of what the algorithm reads."""
    assert isinstance(config.data, PreferenceDataConfig)
    return eval_groups(
        store,
        config.data,
        noun=parts.algo.consumes,
        head=next(iter(parts.algo.trained.values())),
        batch_size=size,
        sharding=parts.rows_sharding,
        max_rows=config.eval.max_rows,
        references=None if refs is None else refs[name],
        mismatch=parts.algo.mismatched,
        mismatched_references=None if refs is None or not parts.algo.mismatched else refs[name + MISMATCHED],
    )


Judge = Callable[[Params, Any], tuple[dict[str, Mean], dict[str, Mean], Array]]


def make_judge(parts: Assembly) -> Judge:
    """Jitted: the terms and metrics of a batch [R, ...], and the score of every slot [N], whole on every device."""
    algo = parts.algo
    everywhere = NamedSharding(parts.mesh, PartitionSpec())

    def judge(weights: Params, batch: Any) -> tuple[dict[str, Mean], dict[str, Mean], Array]:
        if algo.prepare is not None:
            prepared = algo.prepare(weights, jax.tree.map(lambda x: x[None], batch))
            batch = jax.tree.map(lambda x: x[0], prepared)
        terms, metrics = algo.loss(weights, batch)
        assert algo.scores is not None
        return terms, metrics, algo.scores(weights, batch)

    return jax.jit(judge, out_shardings=everywhere)


def judged(
    judge: Judge, weights: Params, store: SequenceStore, batches: Iterator[tuple[Any, Where]], parts: Assembly
) -> dict[str, Any]:
    """Loss and metrics over a whole store; of scores also accuracy by rating, margin and subset, and calibration.

    Figures that are no numbers stand under `details`.
    """
    sums: dict[str, np.ndarray] = {}
    columns: list[dict[str, np.ndarray]] = []
    for batch, where in batches:
        terms, metrics, score_N = jax.device_get(judge(weights, batch))
        for name, mean in [(f"term {name}", mean) for name, mean in terms.items()] + list(metrics.items()):
            sums[name] = sums.get(name, np.zeros(2)) + np.asarray([mean.total, mean.count], np.float64)
        if isinstance(batch, Pairs):
            columns.append(scored_pairs(score_N, batch, where, store))
        elif "reward" in parts.algo.trained:
            columns.append(scored_labels(score_N, where, store))
    means = {name: float(total / max(count, 1e-6)) for name, (total, count) in sums.items()}
    loss = math.fsum(weight * means.pop(f"term {name}") for name, weight in parts.algo.weights.items())
    figures: dict[str, Any] = {"loss": loss} | {name: value for name, value in means.items() if sums[name][1]}
    if columns:
        pairs = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
        figures |= compared(pairs)
    return figures


def scored_pairs(score_N: np.ndarray, batch: Pairs, where: Where, store: SequenceStore) -> dict[str, np.ndarray]:
    """The pairs of a batch as columns, without its empty places."""
    better_P, worse_P, weight_P, margin_P, rating_P = jax.device_get(
        (batch.better_P, batch.worse_P, batch.weight_P, batch.margin_P, batch.rating_P)
    )
    real_P = weight_P > 0
    examples_P = where.example_N[better_P]
    names = np.asarray([*store.subsets, ""], object)  # the last stands for none, which is -1
    columns = {
        "better": score_N[better_P],
        "worse": score_N[worse_P],
        "weight": weight_P,
        "margin": margin_P,
        "rating": rating_P,
        "subset": names[store.subset[examples_P]],
    }
    return {name: column[real_P] for name, column in columns.items()}


def scored_labels(score_N: np.ndarray, where: Where, store: SequenceStore) -> dict[str, np.ndarray]:
    """Answers judged one by one, as pairs with an answer of score 0, which σ(r) puts between wanted and unwanted."""
    filled_N = where.example_N >= 0
    examples, score = where.example_N[filled_N], score_N[filled_N]
    wanted, border = store.label[examples] == 1, np.zeros_like(score)
    names = np.asarray([*store.subsets, ""], object)
    return {
        "better": np.where(wanted, score, border),
        "worse": np.where(wanted, border, score),
        "weight": np.ones_like(score),
        "margin": border,
        "rating": np.full(len(score), -1),
        "subset": names[store.subset[examples]],
    }


def compared(pairs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the scores of pairs say: numbers by name, and under `details` what is more than a number."""
    scores = (pairs["better"], pairs["worse"], pairs["weight"])
    found = compare(*scores, pairs["rating"], pairs["margin"], pairs["subset"].tolist())
    details = {"calibration": calibration(*scores)}
    details |= {name: found[name] for name in ("by_rating", "by_margin", "by_subset") if found[name]}
    return {
        "accuracy": found["accuracy"],
        "accuracy_low": found["interval"][0],
        "accuracy_high": found["interval"][1],
        "pairs": float(found["pairs"]),
        "ties": float(found["ties"]),
        "details": details,
    }
