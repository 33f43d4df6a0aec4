"""Which candidates are chosen: filters, then the rule, then pairs; a prompt at a time.  `core.selection` decides."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrl_llm.core.selection import (
    Pair,
    accept_some,
    best,
    best_and_worst,
    by_source,
    distinct,
    distinct_and_far,
    first_round,
    tournament,
)
from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.config import (
    AllConfig,
    BestConfig,
    BestWorstConfig,
    RejectConfig,
    SourcesConfig,
    StatisticalConfig,
    TournamentConfig,
)
from jaxrl_llm.reject.pool import Asked, Candidate
from jaxrl_llm.tasks.equations import check

NO_CONTRAST = {
    "identical": "all answers read the same",
    "equal": "all score the same",
    "one sided": "all are right, or all are wrong",
    "few": "fewer than two answers",
}


class Chosen(NamedTuple):
    """What became of the candidates for a prompt."""

    selected: list[int]  # numbers of candidates
    pairs: list[Pair]
    stopped: Mapping[str, int]  # filter -> candidates that it stopped, in the order of the filters
    without_pair: str | None  # why there is no pair, where one was wanted


def choose(pool: Sequence[Asked], config: RejectConfig, ranks: Mapping[str, int] | None = None) -> list[Chosen]:
    """What is chosen of every prompt's candidates.

    Args:
        pool: with scores, where the rule asks for them.
        config: the filters and the rule.
        ranks: of the models, 0 the best, for pairs by source.

    Raises:
        UserError: whether an answer is right is asked for and not known.
    """
    rngs = (np.random.default_rng((config.seed, number)) for number in range(len(pool)))
    return [_chosen(asked, config, ranks or {}, rng) for asked, rng in zip(pool, rngs, strict=True)]


def refuse_nothing(pool: Sequence[Asked], chosen: Sequence[Chosen], config: RejectConfig) -> None:
    """A UserError that counts by filter where no answer of a model was selected, or no pair found that was wanted."""
    if all(asked.candidates[i].human for asked, each in zip(pool, chosen, strict=True) for i in each.selected):
        stopped: Counter[str] = Counter()
        for each in chosen:
            stopped.update(each.stopped)
        lines = [f"  {name}: {count:,}" for name, count in stopped.items() if count]
        raise UserError(
            "\n".join(["no answer was accepted; nothing was written.  Of all answers were stopped as", *lines])
            + "\n  mend: other keep or select, more sampling.n, or more sampling.max_new_tokens if they did not end"
        )
    if config.pairs.kind != "none" and not any(each.pairs for each in chosen):
        why = Counter(each.without_pair for each in chosen)
        lines = [f"  {reason}: {count:,}" for reason, count in why.items()]
        raise UserError(
            "\n".join(
                [f"no pair was found (pairs.kind={config.pairs.kind}); nothing was written.  Of the prompts:", *lines]
            )
            + "\n  mend: a higher sampling.temperature, more sampling.n, other prompts, or pairs.kind=none"
        )


def _chosen(asked: Asked, config: RejectConfig, ranks: Mapping[str, int], rng: np.random.Generator) -> Chosen:
    keep, select, candidates = config.keep, config.select, asked.candidates
    stopped: dict[str, int] = {}

    def stop(name: str, left: Sequence[int], kept: Sequence[int]) -> list[int]:
        stopped[name] = len(left) - len(kept) - sum(candidates[i].human for i in {*left} - {*kept})
        return [*kept]

    left = [*range(len(candidates))]
    if not all(each.text.strip() for each in candidates):  # whoever trains leaves these out
        left = stop("empty", left, [i for i in left if candidates[i].text.strip()])
    if keep.ended:
        left = stop("cut off by the limit", left, [i for i in left if candidates[i].ended])
    comparable = [i for i in left if not candidates[i].human]
    if keep.right:
        left = stop("wrong", left, [i for i in left if is_right(asked, candidates[i])])
    if keep.equations:
        left = stop("with a wrong equation", left, [i for i in left if all(e.right for e in check(candidates[i].text))])
    if keep.distinct != "none":
        n_human = sum(candidates[i].human for i in left)  # they come first
        left = stop(f"with the same {keep.distinct}", left, _distinct(candidates, left, keep.distinct, n_human))
    human, left = ([i for i in left if candidates[i].human is kind] for kind in (True, False))
    scores = [_score(candidates[i]) for i in left]
    if isinstance(select, BestConfig):
        picked = best(scores, select.n)
    elif isinstance(select, StatisticalConfig):
        picked = accept_some(scores, select.n, select.beta, rng)
    elif isinstance(select, AllConfig):
        picked = [*range(len(left))]
    else:
        picked = best(scores, at_least=select.least)
    selected = stop("not selected", left, [left[i] for i in picked])
    pairs, why = _pairs(asked, config, comparable, selected, ranks, rng)
    return Chosen([*human, *selected], pairs, stopped, why)


def is_right(asked: Asked, candidate: Candidate) -> bool:
    """What the grader, or the file, says.  Raises UserError where neither does."""
    if candidate.right is None:
        raise UserError(
            f"{asked.prompt.origin}: nothing says whether the answer by {candidate.model} is right\n"
            "  mend: `right` in that row, or the problems that were asked: prompts.problems, prompts.problems_seed"
        )
    return candidate.right


def equations_of(text: str) -> Hashable:
    """The ordered list of equations, which tells one way to an answer from another; all without one are alike."""
    return tuple(each.text for each in check(text))


def _distinct(candidates: Sequence[Candidate], left: Sequence[int], how: str, always: int) -> list[int]:
    texts = [candidates[i].text for i in left]
    if how == "text":
        return [left[i] for i in distinct(texts, always)]
    keys = [equations_of(text) for text in texts]
    return sorted(left[i] for i in distinct_and_far(texts, keys, always))


def _pairs(
    asked: Asked,
    config: RejectConfig,
    comparable: Sequence[int],
    selected: Sequence[int],
    ranks: Mapping[str, int],
    rng: np.random.Generator,
) -> tuple[list[Pair], str | None]:
    """Pairs, and why there is none."""
    rule, candidates = config.pairs, asked.candidates
    if rule.kind == "none":
        return [], None
    among = [*selected] if isinstance(rule, TournamentConfig) else [*comparable]
    if isinstance(rule, SourcesConfig):
        among = [i for i in among if candidates[i].model in ranks]
    texts = [candidates[i].text for i in among]
    if len(among) < 2:
        return [], NO_CONTRAST["few"]
    if len({*texts}) == 1:
        return [], NO_CONTRAST["identical"]
    if isinstance(rule, SourcesConfig):
        first = distinct([candidates[i].model for i in among])  # a prompt's first answer of each model
        among, texts = [among[i] for i in first], [texts[i] for i in first]
        pairs = by_source([ranks[candidates[i].model] for i in among], texts, rule.ranks == "neighbours")
    elif isinstance(rule, BestWorstConfig) and rule.by == "right":
        sides = [[n for n, i in enumerate(among) if is_right(asked, candidates[i]) is kind] for kind in (True, False)]
        if not all(sides):
            return [], NO_CONTRAST["one sided"]
        right, wrong = (max(side, key=lambda n: (candidates[among[n]].score or 0.0, -n)) for side in sides)
        pairs = [Pair(right, wrong)]
    else:
        scores = [_score(candidates[i]) for i in among]
        if isinstance(rule, TournamentConfig):
            order = rng.permutation(len(among)).tolist()  # who meets whom is chance
            pairs = (first_round if rule.rounds == "first" else tournament)(order, scores, texts)
        else:
            pair = best_and_worst(scores, texts)
            pairs = [] if pair is None else [pair]
    found = [Pair(among[better], among[worse]) for better, worse in pairs]
    return found, None if found else NO_CONTRAST["equal"]


def _score(candidate: Candidate) -> float:
    return 0.0 if candidate.score is None else candidate.score
