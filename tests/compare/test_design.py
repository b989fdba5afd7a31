"""Which values are tried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kdflow.compare.design import design
from kdflow.compare.entries import RATE as RATE_PATH
from kdflow.compare.entries import _Maker, weight_ranges
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.search.space import Space
from kdflow.spec.method import SearchRange

RATE = SearchRange(low=0.001, high=0.016, log=True)


def test_declared_values_come_first_and_every_part_of_a_range_is_met_once() -> None:
    space = Space({"lr": RATE, "kind": SearchRange(choices=("a", "b"))}, {"lr": 0.004})
    points = design(space, 5)
    assert points[0] == {"lr": 0.004, "kind": "b"}
    parts = sorted(int((point["lr"] / 0.001 - 1e-9) ** 1 >= edge) for point in points[1:] for edge in (2, 4, 8))
    assert parts == [0] * 6 + [1] * 6  # one value below 0.002, one below 0.004, one below 0.008, one above
    assert {point["kind"] for point in points} == {"a", "b"}


def test_a_path_is_tried_at_the_same_values_in_every_entry() -> None:
    one = design(Space({"lr": RATE}), 6)
    other = design(Space({"terms.a.weight": SearchRange(low=1, high=9), "lr": RATE}), 6)
    assert [point["lr"] for point in one] == [point["lr"] for point in other]
    assert one == design(Space({"lr": RATE}), 6)


def test_whole_steps_stay_whole_and_inside() -> None:
    values = [p["n"] for p in design(Space({"n": SearchRange(low=1, high=7, step=3)}), 9)]
    assert set(values) == {1, 4, 7}
    assert all(type(value) is int for value in values)


def test_a_methods_own_ranges_over_the_bench_are_left_aside() -> None:
    setting = prepare(read_method("joint-detnas"), "shapes-faster-rcnn")
    maker: Any = SimpleNamespace(protocol=SimpleNamespace(budget=4), rate=0.002)
    space = _Maker._space(maker, setting, {"recipe.ema": SearchRange(low=0.9, high=0.99), **weight_ranges(setting.method)})
    assert set(space.ranges) == {RATE_PATH, "recipe.ema", "terms.regions.weight", "terms.classes.weight"}
