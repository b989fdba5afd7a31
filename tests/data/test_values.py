from __future__ import annotations

import math
from typing import Any

import pytest

from kdflow.data.values import class_name, file_name, number, shown, truth, whole

HUGE = 10**400


@pytest.mark.parametrize(
    ("value", "taken"),
    [(7, 7), (7.0, 7), ("7", 7), (" 7 ", 7), ("7.0", 7), ("007", 7), (-1, -1), (0, 0), (2**63 - 1, 2**63 - 1)]
    + [
        (wrong, None)
        for wrong in (2**63, HUGE, 7.5, "7.5", "9" * 20, "7_0", "\u0667", True, None, "", [], {}, math.inf, math.nan)
    ],
)
def test_whole_numbers(value: Any, taken: int | None):
    assert whole(value) == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [(7, 7.0), (7.5, 7.5), ("7.5", 7.5), ("1e2", 100.0), (".5", 0.5), ("-3", -3.0)]
    + [(wrong, None) for wrong in (True, None, "", "1_0", "1,5", "12px", "\u0667", [1], "0x1")],
)
def test_numbers(value: Any, taken: float | None):
    assert number(value) == taken


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", "-Infinity", HUGE, 1e300, "9" * 5000])
def test_numbers_that_are_not_finite_or_absurd_are_nan(value: Any):
    assert math.isnan(number(value) or 0)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        *((one, True) for one in (True, 1, 1.0, "1", "1.0", "true", "TRUE")),
        *((no, False) for no in (False, 0, 0.0, "0", "False")),
    ]
    + [(wrong, None) for wrong in (2, -1, "yes", "no", "", [], [0], {}, 0.5, "10", None, HUGE)],
)
def test_truth(value: Any, taken: bool | None):
    assert truth(value) is taken


def test_names():
    assert file_name("a b/c.jpg") == "a b/c.jpg"
    assert [file_name(x) for x in ("", "  ", "a\0b", "a\nb", "\ud800", 5, None)] == [None] * 7
    assert class_name('a "quoted"\nname') == 'a "quoted"\nname'
    assert [class_name(x) for x in ("", " ", "\0", "\ud800", 5, None, ["a"])] == [None] * 7


def test_values_are_shown_as_json_writes_them_and_cut():
    assert [shown(x) for x in ("yes", None, True, 1.0)] == ['"yes"', "null", "true", "1.0"]
    assert shown("x" * 500) == '"' + "x" * 76 + "..."
    assert shown("\ud800").isprintable()
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    assert len(shown(nested)) <= 80
