"""Choosing among the candidates for one prompt: the best, some by a statistical rule, distinct ones, or pairs of them.

Candidates are their numbers 0 .. K − 1: sequences of K scores, texts, keys go in, numbers come out.  No JAX.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations, groupby, pairwise, product
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist


class Pair(NamedTuple):
    """Two candidates of which one is preferred."""

    better: int
    worse: int


def best(scores: Sequence[float], n: int | None = None, at_least: float = -np.inf) -> list[int]:
    """The `n` best of those that score `at_least` so much, best first; of equal ones the earlier.  None: all of them.

    >>> best([1.0, 3.0, 2.0, 3.0], n=3)
    [1, 3, 2]
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [i for i in order if scores[i] >= at_least][:n]


def accepts(u: np.ndarray, p: np.ndarray, q: np.ndarray, bound: float) -> np.ndarray:
    """Which draws classical rejection sampling accepts: u · M · q(y) < p(y), bool of the shape of u.

    What is accepted of y ~ q is distributed as p, exactly, if M >= p/q everywhere (von Neumann, 1951); and one draw of
    M is accepted, if p and q add up to 1.

    Args:
        u: uniform in [0, 1), one a draw.
        p: the density that is wanted at each draw; it need not add up to 1.
        q: the density of the draws, likewise.
        bound: M.
    """
    return u * bound * q < p


def accept_some(scores: Sequence[float], n: int, beta: float, rng: np.random.Generator) -> list[int]:
    """`n` of K candidates by statistical rejection sampling (RSO, arXiv 2309.06657), as they are accepted; K if n > K.

    Passes in random order over those not accepted yet, each of which is accepted with probability
    exp((r − r_max) / β), where r_max is the largest score among them as the pass begins.  This is `accepts` with
    p ∝ q·exp(r/β) and M = exp(r_max/β): the optimum of E[r] − β·KL(p ‖ q), approximately, since the largest of K scores
    stands for the largest there is, and as long as n is far below K.  β -> 0 takes the best, β -> ∞ any.

    Args:
        scores: r, finite.
        n: how many.
        beta: β > 0, in units of r.
        rng: the same state gives the same choice.
    """
    reward, left = np.asarray(scores, np.float64), np.arange(len(scores))
    accepted: list[int] = []
    while left.size and len(accepted) < n:
        order = rng.permutation(left)
        share = np.exp((reward[order] - reward[left].max()) / beta)  # p / (M q); 1 of the best, which ends the loop
        taken = order[accepts(rng.random(order.size), share, np.ones_like(share), 1.0)]
        accepted += taken.tolist()
        left = np.setdiff1d(left, taken)
    return accepted[:n]


def distinct(keys: Sequence[Hashable], always: int = 0) -> list[int]:
    """The first candidate of each key, in order; the first `always` candidates in any case.

    >>> distinct(["a", "b", "a"])
    [0, 1]
    """
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return [i for i, key in enumerate(keys) if i < always or first[key] == i]


def distinct_and_far(texts: Sequence[str], keys: Sequence[Hashable], always: int = 0) -> list[int]:
    """One candidate of each key, worded as unlike the others as can be: how RFT (arXiv 2308.01825) chooses.

    In order, a candidate of a new key is kept.  One whose key a kept one has takes its place if it is farther from the
    rest of those kept so far: the sum of its Levenshtein distances to them is larger.  The first `always` candidates
    (solutions by people) are kept and keep their places, whatever their keys.

    >>> distinct_and_far(["aa", "bb", "ab", "cccc"], keys=["x", "y", "y", "x"])
    [3, 1]
    """
    kept: list[int] = []
    place: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        at = place.setdefault(key, len(kept))
        if at == len(kept) or i < always:
            kept.append(i)
        elif at >= always:
            others = [texts[each] for each in kept if each != kept[at]]
            now, new = cdist([texts[kept[at]], texts[i]], others, scorer=Levenshtein.distance).sum(axis=1)
            if new > now:
                kept[at] = i
    return kept


def best_and_worst(scores: Sequence[float], texts: Sequence[str]) -> Pair | None:
    """The best candidate and the worst that reads otherwise, the earlier of equals.

    None where there is no contrast: all score alike, or those that score less read alike.
    """
    worst_first = sorted(range(len(scores)), key=lambda i: scores[i])
    pairs = (_ranked(top, i, scores, texts) for top in best(scores, 1) for i in worst_first)
    return next((pair for pair in pairs if pair), None)


def first_round(order: Sequence[int], scores: Sequence[float], texts: Sequence[str]) -> list[Pair]:
    """Disjoint pairs of the candidates in `order`, the first with the second and so on (RSO's "first-round").

    At most n/2 pairs of n; those without a contrast (see `best_and_worst`) are left out.
    """
    pairs = (_ranked(i, j, scores, texts) for i, j in zip(order[::2], order[1::2], strict=False))
    return [pair for pair in pairs if pair]


def tournament(order: Sequence[int], scores: Sequence[float], texts: Sequence[str]) -> list[Pair]:
    """The pairs of a knock-out tournament of the candidates in `order`, round after round (RSO's "tournament").

    At most n − 1 pairs of n.  Of two without a contrast the earlier goes on, and there is no pair; so does an odd one.
    """
    pairs = []
    while len(order) > 1:
        winners = list(order[::2])
        for match, (i, j) in enumerate(zip(order[::2], order[1::2], strict=False)):
            if pair := _ranked(i, j, scores, texts):
                pairs.append(pair)
                winners[match] = pair.better
        order = winners
    return pairs


def by_source(ranks: Sequence[int], texts: Sequence[str], neighbours: bool = False) -> list[Pair]:
    """Pairs of candidates from different sources, the one of the better source preferred (ALMoST, arXiv 2305.13735).

    A larger model, or one with more examples in its prompt, is assumed to answer better, and nobody looks.

    Args:
        ranks: of the source of each candidate; 0 is the best one.
        texts: equal ones are no pair.
        neighbours: only of sources whose ranks follow each other, among those that are there.
    """
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    sources = [list(group) for _, group in groupby(order, key=lambda i: ranks[i])]
    meetings = pairwise(sources) if neighbours else combinations(sources, 2)
    return [Pair(i, j) for a, b in meetings for i, j in product(a, b) if texts[i] != texts[j]]


def _ranked(i: int, j: int, scores: Sequence[float], texts: Sequence[str]) -> Pair | None:
    """The better first; None where the two score or read alike."""
    if scores[i] == scores[j] or texts[i] == texts[j]:
        return None
    return Pair(i, j) if scores[i] > scores[j] else Pair(j, i)
