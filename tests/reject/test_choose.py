"""Filters in their order with counts, every rule of selecting, every rule of pairs, and why there is no pair."""

from collections import Counter
from typing import Any

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.reject.choose import Chosen, choose, refuse_nothing
from jaxrl_llm.reject.config import (
    AllConfig,
    BestConfig,
    BestWorstConfig,
    KeepConfig,
    SourcesConfig,
    StatisticalConfig,
    ThresholdConfig,
    TournamentConfig,
)
from jaxrl_llm.reject.pool import Asked
from tests.reject.made import asked, config, with_human

ANY = KeepConfig(ended=False, distinct="none")
RFT = KeepConfig(right=True, equations=True, distinct="equations")


def one(row: Asked, ranks: dict[str, int] | None = None, **sections: Any) -> Chosen:
    (found,) = choose([row], config(**sections), ranks)
    return found


def test_filters_count_what_they_stop_and_nothing_is_lost() -> None:
    row = asked(
        "<<1+1=2>>", "<<1+1=3>>", "<<1+1=2>>", "cut", "wrong", " ", "<<2*1=2>>", "plain",
        scores=[1, 2, 9, 8, 7, 6, 3, 0],
        ended=[True, True, True, False, True, True, True, True],
        grade=[1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0],
    )  # fmt: skip
    found = one(row, keep=KeepConfig(right=True, equations=True), select=BestConfig(n=2))
    assert dict(found.stopped) == {
        "empty": 1,
        "cut off by the limit": 1,
        "wrong": 1,
        "with a wrong equation": 1,
        "with the same text": 1,
        "not selected": 1,
    }
    assert found.selected == [6, 0]  # the second of equal texts is not there any more, though it scores most
    assert sum(found.stopped.values()) + len(found.selected) == 8


def test_filters_that_are_off_stop_nothing() -> None:
    row = asked("a", "a", "b", scores=[3, 2, 1], ended=[True, False, False], grade=[0.0, 0.0, 1.0])
    assert one(row, keep=ANY, select=AllConfig()).selected == [0, 1, 2]
    assert one(row, keep=KeepConfig(ended=False), select=AllConfig()).selected == [0, 2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BestConfig(), [1]),
        (BestConfig(n=3), [1, 3, 2]),
        (ThresholdConfig(least=2.0), [1, 3, 2]),
        (ThresholdConfig(least=2.5), [1, 3]),
        (ThresholdConfig(least=9.0), []),
        (AllConfig(), [0, 1, 2, 3]),
        (StatisticalConfig(n=2, beta=1e-3), [1, 3]),  # cold: the best
    ],
)
def test_every_rule_of_selecting(rule: Any, expected: list[int]) -> None:
    found = one(asked("a", "b", "c", "d", scores=[1.0, 3.0, 2.0, 2.6]), select=rule)
    assert found.selected == expected
    assert found.stopped["not selected"] == 4 - len(expected)


def test_the_statistical_rule_draws_by_the_reward_and_the_seed() -> None:
    """β = 1 and two answers 1 apart, one of which is taken: by exp(−1) the lesser is accepted where it is looked at."""
    pool = [asked("a", "b", scores=[1.0, 0.0])] * 4000
    rule = StatisticalConfig(n=1, beta=1.0)
    picks = [each.selected[0] for each in choose(pool, config(select=rule))]
    # it comes first in half of the passes and is accepted then by e^-1; the better one is accepted whenever it comes
    assert sum(picks) / 4000 == pytest.approx(0.5 * 0.3679, abs=0.02)
    assert picks == [each.selected[0] for each in choose(pool, config(select=rule))]
    assert picks != [each.selected[0] for each in choose(pool, config(select=rule, seed=1))]


def test_rft_keeps_right_paths_that_differ_and_the_human_one() -> None:
    row = asked(
        "half is <<4/2=2>>2. #### 2", "half of it, it seems, is <<4/2 = 2>>2. #### 2",
        "<<4-2=2>>2 #### 2", "<<4-2=3>>2 #### 2", "<<4-3=1>>1 #### 1", "#### 2",
        grade=[1.0, 1.0, 1.0, 1.0, 0.0, 1.0],
    )  # fmt: skip
    row = with_human(row, "Four less two <<4-2=2>>2 #### 2")
    found = one(row, keep=RFT, select=AllConfig(), human=True)
    # of equal equations the one that is worded farther from the others; the human path is there already
    assert found.selected == [0, 2, 6]
    assert found.stopped == {
        "cut off by the limit": 0,
        "wrong": 1,
        "with a wrong equation": 1,
        "with the same equations": 2,
        "not selected": 0,
    }
    wrong = with_human(asked("a", grade=[1.0]), "b", grade=0.0)
    assert one(wrong, keep=RFT, select=AllConfig(), human=True).selected == [1]


def test_the_human_answer_is_chosen_besides_the_best_and_is_in_no_pair() -> None:
    row = with_human(asked("a", "b", scores=[1.0, 2.0]), "human")
    found = one(row, pairs=BestWorstConfig())
    assert found.selected == [0, 2]
    assert found.pairs == [(2, 1)]


def test_best_against_worst() -> None:
    row = asked("a", "b", "c", "d", scores=[1.0, 3.0, 2.0, -1.0], ended=[True, True, True, False])
    assert one(row, pairs=BestWorstConfig()).pairs == [(1, 0)]  # what was cut off is not compared
    assert one(row, pairs=BestWorstConfig(), keep=KeepConfig(ended=False)).pairs == [(1, 3)]
    graded = asked("a", "b", "c", "d", scores=[1, 5, 3, 4], grade=[1.0, 0.0, 1.0, 0.0])
    found = one(graded, pairs=BestWorstConfig(by="right"), keep=KeepConfig(right=True))
    assert found.pairs == [(2, 1)]  # the wrong answer that the reward model likes most
    assert one(asked("a", "b", grade=[0.0, 1.0]), pairs=BestWorstConfig(by="right"), select=AllConfig()).pairs == [
        (1, 0)
    ]


@pytest.mark.parametrize(
    ("answers", "columns", "by", "why"),
    [
        (("a", "a"), {"scores": [1, 2]}, "score", "all answers read the same"),
        (("a", "b"), {"scores": [1, 1]}, "score", "all score the same"),
        (("a",), {"scores": [1]}, "score", "fewer than two answers"),
        (("a", "b"), {"scores": [1, 2], "ended": [True, False]}, "score", "fewer than two answers"),
        (("a", "b"), {"scores": [1, 2], "grade": [1.0, 1.0]}, "right", "all are right, or all are wrong"),
    ],
)
def test_why_there_is_no_pair(answers: tuple[str, ...], columns: dict[str, Any], by: Any, why: str) -> None:
    found = one(asked(*answers, **columns), pairs=BestWorstConfig(by=by))
    assert found.pairs == []
    assert found.without_pair == why


def test_pairs_by_source_go_by_rank_and_nobody_rates() -> None:
    models = ["small", "large", "large", "middle", "stranger"]
    row = asked("a", "b", "c", "d", "e", model=models)
    ranks = {"large": 0, "middle": 1, "small": 2}
    every = one(row, ranks, select=AllConfig(), pairs=SourcesConfig())
    assert {*every.pairs} == {(1, 3), (1, 0), (3, 0)}  # the first answer of each
    neighbours = one(row, ranks, select=AllConfig(), pairs=SourcesConfig(ranks="neighbours"))
    assert {*neighbours.pairs} == {(1, 3), (3, 0)}
    alike = asked("a", "a", "b", model=["small", "large", "middle"])
    assert {*one(alike, ranks, select=AllConfig(), pairs=SourcesConfig()).pairs} == {(1, 2), (2, 0)}


def test_a_tournament_is_of_the_selected() -> None:
    row = asked(*"abcdef", scores=[5, 4, 3, 2, 1, 0])
    rounds = Counter[int]()
    for seed in range(20):
        first = one(row, seed=seed, select=BestConfig(n=4), pairs=TournamentConfig())
        assert len(first.pairs) == 2
        assert {i for pair in first.pairs for i in pair} == {0, 1, 2, 3}
        assert all(better < worse for better, worse in first.pairs)
        rounds.update(worse for better, worse in first.pairs if better == 0)
        every = one(row, seed=seed, select=BestConfig(n=4), pairs=TournamentConfig(rounds="all"))
        assert every.pairs[:2] == first.pairs
        assert len(every.pairs) == 3
        assert every.pairs[-1].better == 0
    assert len(rounds) == 3  # who meets whom is chance


def test_nothing_accepted_is_refused_with_counts() -> None:
    rows = [with_human(asked("a", "b", grade=[0.0, 1.0], ended=[True, False]), "human")]
    rft = config(keep=RFT, select=AllConfig(), human=True)
    found = choose(rows, rft)
    assert found[0].selected == [0]  # of a model none
    with pytest.raises(UserError, match=r"cut off by the limit: 1\n  wrong: 1\n  mend"):
        refuse_nothing(rows, found, rft)
    alike = config(pairs=BestWorstConfig())
    rows = [asked("a", "a", scores=[1, 1]), asked("a", "b", scores=[1, 1]), asked("c", "c", scores=[1, 1])]
    with pytest.raises(UserError, match=r"all answers read the same: 2\n  all score the same: 1"):
        refuse_nothing(rows, choose(rows, alike), alike)
    fine = [*rows, asked("a", "b", scores=[1, 2])]
    refuse_nothing(fine, choose(fine, alike), alike)


def test_what_nobody_knows_is_not_guessed() -> None:
    with pytest.raises(UserError, match="nothing says whether the answer by policy is right"):
        one(asked("a"), keep=KeepConfig(right=True))
