"""Factors on terms over time."""

from __future__ import annotations

import pytest

from kdflow.spec.load import parse
from kdflow.spec.schedule import Progress, read_schedule


def factors(schedule: str, total: int, steps: list[int]) -> list[float]:
    document = parse(schedule)
    found = read_schedule(document.data, document, ())
    document.check()
    return [found.factor(Progress(step, total, 10)) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "total", "steps", "expected"),
    [
        ("warmup: {steps: 2000, most: 0.1}", 100_000, [0, 1000, 2000], [0, 0.5, 1]),
        ("warmup: {steps: 2000, most: 0.1}", 1000, [0, 50, 100], [0, 0.5, 1]),
        ("defer: {until: 1000, most: 0.1}", 300, [29, 30], [0, 1]),
        ("defer: {until: 1000, most: 0.1}", 90_000, [999, 1000], [0, 1]),
        ("stop: {after: 1000, most: 0.1}", 300, [29, 30], [1, 0]),
        ("stop: {after: 0.8, most: 0.5}", 100, [49, 50], [1, 0]),
        ("stop: 0.8", 100, [79, 80], [1, 0]),
    ],
)
def test_a_length_takes_at_most_its_share_of_the_run(schedule: str, total: int, steps: list[int], expected: list[float]):
    assert factors(schedule, total, steps) == expected
