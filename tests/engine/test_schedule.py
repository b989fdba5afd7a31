from __future__ import annotations

import math
from typing import Any

import pytest

from kdflow.engine.schedule import learning_rate
from kdflow.spec.bench import Schedule


def factor(step: int, total: int = 100, **keys: Any) -> float:
    return learning_rate(Schedule(**keys), total)(step)


def test_constant_is_one_everywhere() -> None:
    assert [factor(step, name="constant") for step in (0, 50, 99, 100)] == [1.0] * 4


@pytest.mark.parametrize(("step", "expected"), [(0, 0.25), (5, 0.625), (9, 0.925), (10, 1.0), (50, 1.0)])
def test_warmup_is_a_line(step: int, expected: float) -> None:
    assert factor(step, name="constant", warmup=10, warmup_factor=0.25) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 1), (66, 1), (67, 0.1), (91, 0.1), (92, 0.01), (100, 0.01)])
def test_step_drops_at_fractions_of_the_run(step: int, expected: float) -> None:
    assert factor(step, name="step", milestones=(0.667, 0.917)) == pytest.approx(expected)


def test_step_drops_at_absolute_steps_above_one() -> None:
    found = [factor(step, total=12, name="step", milestones=(8, 11), factor=0.5) for step in (7, 8, 10, 11)]
    assert found == [1, 0.5, 0.5, 0.25]


def test_warmup_multiplies_a_milestone_inside_it() -> None:
    assert factor(5, name="step", warmup=10, warmup_factor=0, milestones=(0.02,)) == pytest.approx(0.05)


@pytest.mark.parametrize(("step", "expected"), [(20, 1.0), (60, 0.5), (100, 0.0), (130, 0.0)])
def test_cosine_falls_after_the_warmup(step: int, expected: float) -> None:
    assert factor(step, name="cosine", warmup=20) == pytest.approx(expected, abs=1e-12)


def test_cosine_ends_at_the_final_factor() -> None:
    assert factor(100, name="cosine", final_factor=0.2) == pytest.approx(0.2)
    assert factor(25, name="cosine", final_factor=0.2) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (25, 0.775), (50, 0.55), (100, 0.1)])
def test_linear_falls_to_the_final_factor(step: int, expected: float) -> None:
    assert factor(step, name="linear", final_factor=0.1) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.04), (15, 0.52), (30, 1.0), (65, 0.5), (100, 0.0)])
def test_one_cycle_rises_for_three_tenths(step: int, expected: float) -> None:
    assert factor(step, name="one_cycle", warmup_factor=0.04) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_rises_for_the_warmup_if_given() -> None:
    assert factor(10, name="one_cycle", warmup=10) == pytest.approx(1.0)
    assert factor(5, name="one_cycle", warmup=10, warmup_factor=0) == pytest.approx(0.5)
