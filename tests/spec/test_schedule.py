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


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("linear", [1, 0.775, 0.55, 0.1]), ("cosine", [1, 0.868198, 0.55, 0.1]), ("up_down", [1, 1.9, 1.3, 0.1])],
)
def test_a_decay_ends_at_its_final_factor(shape: str, expected: list[float]):
    found = factors(f"decay: {{shape: {shape}, by: step, final_factor: 0.1}}", 100, [0, 25, 50, 100])
    assert found == pytest.approx(expected, abs=1e-6)


def test_whole_epochs_count_where_not_told_otherwise():
    assert factors("decay: {shape: cosine, final_factor: 0.01}", 40, [9, 10, 20]) == pytest.approx([1, 0.855018, 0.505], abs=1e-6)
