"""Paired tests against scipy and against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdflow.compare.judge import turn
from kdflow.compare.statistics import holm, paired, reach, seeds_to_decide, word

DIFFERENCES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=8)


@given(DIFFERENCES.filter(lambda ds: max(ds) - min(ds) > 0.01))
def test_interval_and_chance_are_those_of_scipy(differences: list[float]) -> None:
    found, known = paired(differences), stats.ttest_1samp(differences, 0.0)
    low, high = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_three_seeds_by_hand() -> None:
    found = paired([1.0, 2.0, 3.0])
    assert (found.mean, found.spread) == (2.0, 1.0)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.p == pytest.approx(0.0741799, abs=1e-6)
    assert word(found.mean, found.p) == "undecided"


def test_one_seed_and_equal_differences() -> None:
    assert paired([4.0]) == paired([4.0])
    assert (paired([4.0]).p, paired([4.0]).low) == (1.0, None)
    assert (paired([0.0, 0.0]).p, paired([0.5, 0.5]).p) == (1.0, 0.0)
    assert word(0.0, 0.0) == "undecided"


def test_holm_by_hand_never_falls_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_of_many_is_undecided_where_it_would_be_decided_alone() -> None:
    alone = paired([1.0, 1.2, 0.9]).p
    assert word(1.0, holm([alone])[0]) == "better"
    assert word(1.0, holm([alone, *[0.5] * 20])[0]) == "undecided"
    assert word(-1.0, alone) == "worse"


def test_seeds_that_would_decide_do() -> None:
    found = paired([1.0, 2.0, 3.0])
    needed = seeds_to_decide(found)
    assert needed == 4
    assert reach(needed, 1.0) < found.mean < reach(needed - 1, 1.0)
    assert seeds_to_decide(paired([1.0])) is None
    assert seeds_to_decide(paired([0.001, -0.0005, 30, -30])) is None


@pytest.mark.parametrize(
    ("differences", "family", "words"),
    [
        ([0.5], 1, "one seed has no spread"),
        ([0.0, 0.0], 1, "equal at every seed"),
        ([1.0, 2.0, 3.0], 1, "3 seeds of this spread tell 2.48 from 0; at this mean and spread 4 seeds would decide"),
        ([0.1, -30.0, 30.0], 1, "no number of seeds worth running"),
        ([1.0, 1.2, 0.9], 20, "fewer comparisons in this family: alone it would be decided"),
        ([1.0, 1.2, 0.9], 1, "a mean nearer to 0 by 0.65"),
    ],
)
def test_what_would_change_a_verdict(differences: list[float], family: int, words: str) -> None:
    test = paired(differences)
    assert words in turn(test, holm([test.p] + [1.0] * (family - 1))[0])
