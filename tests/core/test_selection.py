"""Selection: small cases by hand, and what is accepted follows the distribution that it should."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from jaxrl_llm.core.selection import (
    accept_some,
    accepts,
    best,
    best_and_worst,
    by_source,
    distinct,
    distinct_and_far,
    first_round,
    tournament,
)

TARGET = np.array([0.1, 0.2, 0.3, 0.4])
PROPOSAL = np.array([0.4, 0.4, 0.1, 0.1])


def shares(numbers: np.ndarray, of: int) -> np.ndarray:
    return np.bincount(numbers, minlength=of) / len(numbers)


def test_the_best_come_first_and_of_equals_the_earlier() -> None:
    scores = [0.5, 2.0, -1.0, 2.0, 0.5]
    assert best(scores) == [1, 3, 0, 4, 2]
    assert best(scores, 3) == [1, 3, 0]
    assert best(scores, 9) == [1, 3, 0, 4, 2]
    assert best(np.array(scores, np.float32), at_least=0.5) == [1, 3, 0, 4]
    assert best(scores, 1, at_least=0.5) == [1]
    assert best(scores, 2, at_least=2.5) == best([], 2) == []


@pytest.mark.parametrize("bound", [4.0, 8.0])
def test_what_the_classical_rule_accepts_is_distributed_as_the_target(bound: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, 200_000, p=PROPOSAL)
    taken = accepts(rng.random(drawn.size), TARGET[drawn], PROPOSAL[drawn], bound)
    assert shares(drawn[taken], 4) == pytest.approx(TARGET, abs=0.01)  # 3 standard deviations
    assert taken.mean() == pytest.approx(1 / bound, abs=0.005)


def test_a_bound_that_is_none_distorts() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, 200_000, p=PROPOSAL)
    taken = accepts(rng.random(drawn.size), TARGET[drawn], PROPOSAL[drawn], 2.0)  # p/q is up to 4
    wanted = np.minimum(TARGET, 2.0 * PROPOSAL)
    assert shares(drawn[taken], 4) == pytest.approx(wanted / wanted.sum(), abs=0.01)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_what_is_accepted_of_many_is_the_regularised_optimum(beta: float) -> None:
    rewards = np.array([1.0, 0.0, 2.0, 1.5])
    rng = np.random.default_rng(1)
    candidates = rng.choice(4, 100_000, p=PROPOSAL)
    accepted = accept_some(rewards[candidates], 8000, beta, rng)
    assert len(set(accepted)) == 8000
    wanted = PROPOSAL * np.exp(rewards / beta)
    assert shares(candidates[accepted], 4) == pytest.approx(wanted / wanted.sum(), abs=0.015)


def test_each_pass_accepts_with_the_stated_probability() -> None:
    scores, times = [0.0, 1.0, 2.0], 4000
    firsts = np.zeros(3)
    for seed in range(times):
        firsts[accept_some(scores, 1, 1.0, np.random.default_rng(seed))] += 1
    wanted = np.zeros(3)  # by hand: of those that a pass accepts the first in a random order, so any of them
    for mask in itertools.product([0, 1], repeat=2):
        probability = np.prod([p if m else 1 - p for p, m in zip(np.exp([-2.0, -1.0]), mask, strict=True)])
        taken = [i for i, m in enumerate((*mask, 1)) if m]
        wanted[taken] += probability / len(taken)
    assert firsts / times == pytest.approx(wanted, abs=0.025)


def test_without_warmth_the_best_are_accepted_and_with_much_any() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    assert accept_some(scores, 7, 1e-6, np.random.default_rng(3)) == best(scores, 7)
    drawn = [accept_some([5.0, 0.0, -5.0, 1.0], 2, 1e9, np.random.default_rng(seed)) for seed in range(4000)]
    assert shares(np.array(drawn)[:, 0], 4) == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert shares(np.array(drawn)[:, 1], 4) == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert all(a != b for a, b in drawn)


def test_those_that_are_left_are_measured_against_the_best_of_them() -> None:
    # Against the best of all of them, e^-1000, the others would not be accepted in the life of the universe.
    assert sorted(accept_some([1000.0, 0.0, 0.0], 3, 1.0, np.random.default_rng(0))) == [0, 1, 2]


def test_acceptance_is_the_seeds_and_stops_with_the_last() -> None:
    scores = np.random.default_rng(0).normal(size=30)
    once, again, other = (accept_some(scores, 10, 1.0, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert once == again != other
    assert sorted(accept_some(scores, 99, 1.0, np.random.default_rng(4))) == list(range(30))
    assert accept_some(scores, 0, 1.0, np.random.default_rng(0)) == accept_some([], 3, 1.0, np.random.default_rng(0))


def test_one_of_each_key() -> None:
    assert distinct(["a", "b", "a", "c", "b"]) == [0, 1, 3]
    assert distinct(["a", "a", "a", "b"], always=2) == [0, 1, 3]
    assert distinct([("1+1=2",), (), ()]) == [0, 1]
    assert distinct([]) == distinct_and_far([], []) == []


def test_of_an_equal_key_the_farthest_is_kept_where_the_first_stood() -> None:
    # Beside "bb": "aa" is 2 away, "ab" 1, "abcd" 3 (a, c and d are too many), "xy" 2.
    texts = ["aa", "bb", "ab", "abcd", "xy"]
    assert distinct_and_far(texts, ["k", "l", "k", "k", "k"]) == [3, 1]
    assert distinct_and_far(texts[:3], ["k", "l", "k"]) == [0, 1]  # 1 < 2: it stays
    assert distinct_and_far(["aa", "bb", "cc"], ["k", "l", "k"]) == [0, 1]  # as far: it stays


def test_distances_are_to_those_kept_so_far_all_together() -> None:
    # "dddd" to "d", "ddd": 3 + 1 = 4, and "" to them 1 + 3 = 4: equal, the first stays.
    texts = ["d", "ddd", "dddd", ""]
    assert distinct_and_far(texts, ["a", "b", "c", "c"]) == [0, 1, 2]
    # To "d" alone, 3 against 1.  The key "b" comes too late to count: beside it "" would be the farther, 7 against 5.
    assert distinct_and_far(["d", "", "dddd", "dddddd"], ["a", "c", "c", "b"]) == [0, 2, 3]
    # Nobody else is kept yet: 0 against 0.
    assert distinct_and_far(["a", "zzzz"], ["k", "k"]) == [0]


def test_peoples_solutions_come_first_and_stay() -> None:
    texts, keys = ["aa", "aa", "zzzzzz", "b", "bbbb"], ["k", "k", "k", "l", "l"]
    # Of "l": "b" is 2 from each "aa", "bbbb" is 4.
    assert distinct_and_far(texts, keys, always=2) == [0, 1, 4]
    assert distinct_and_far(texts, keys, always=1) == [0, 4]
    # Without it "zzzzzz" waits for someone to be far from, and finds nobody; the first stays.
    assert distinct_and_far(texts, keys) == [0, 4]
    assert distinct_and_far(["b", "aa", "zzzzzz"], ["l", "k", "k"], always=0) == [0, 2]


def test_the_best_against_the_worst_that_reads_otherwise() -> None:
    assert best_and_worst([1.0, 3.0, 0.0, 3.0, 0.0], list("abcde")) == (1, 2)
    assert best_and_worst([1.0, 3.0, 0.0], ["a", "b", "b"]) == (1, 0)  # the worst reads as the best does
    assert best_and_worst([1.0, 3.0, 3.0], ["a", "b", "a"]) == (1, 0)
    assert best_and_worst([2.0, 2.0, 2.0], list("abc")) is None
    assert best_and_worst([1.0, 2.0, 3.0], list("aaa")) is None
    assert best_and_worst([1.0], ["a"]) is best_and_worst([], []) is None


def test_a_first_round_and_a_tournament() -> None:
    scores, texts = [1.0, 4.0, 2.0, 0.0, 3.0], list("abcde")
    order = [3, 0, 4, 1, 2]
    assert first_round(order, scores, texts) == [(0, 3), (1, 4)]
    assert tournament(order, scores, texts) == [(0, 3), (1, 4), (1, 0), (1, 2)]
    assert len(tournament(range(16), np.arange(16.0), [*map(str, range(16))])) == 15
    assert order == [3, 0, 4, 1, 2]


def test_rounds_without_contrast_make_no_pair_and_the_earlier_goes_on() -> None:
    scores, texts = [1.0, 1.0, 2.0, 0.0], ["a", "b", "c", "c"]
    assert first_round(range(4), scores, texts) == []  # equal scores; equal texts
    assert tournament(range(4), scores, texts) == [(2, 0)]
    assert tournament([1], scores, texts) == first_round([1], scores, texts) == tournament([], [], []) == []


def test_pairs_of_sources() -> None:
    ranks, texts = [2, 0, 1, 0], ["a", "b", "c", "a"]
    assert set(by_source(ranks, texts)) == {(1, 2), (3, 2), (2, 0), (1, 0)}  # not 3 and 0: both say "a"
    assert set(by_source(ranks, texts, neighbours=True)) == {(1, 2), (3, 2), (2, 0)}
    assert by_source([7, 3], ["x", "y"], neighbours=True) == [(1, 0)]  # nobody between them is there
    assert by_source([1, 1], ["x", "y"]) == by_source([0, 1], ["x", "x"]) == by_source([], []) == []


def test_selection_needs_no_jax() -> None:
    code = "import sys, jaxrl_llm.core.selection; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
