"""Numbers per level: equal to one entry per level, in values and weights."""

from __future__ import annotations

import pytest
import torch

from kdflow.graph.draw import reduction
from kdflow.ports import Batch
from tests.graph.test_plan import HEAD, faults, plan_of

ATTENTION = HEAD + """nodes:
  ours: {op: attention.spatial, features: "student.neckINDEX", temperature: T}
  theirs: {op: attention.spatial, features: "teacher.neckINDEX", temperature: T}
terms:
  places: {loss: loss.l1, student: ours, teacher: theirs, at: cnn/neck, reduce: {over: [elements], levels: LEVELS}}
"""


def attention(temperature: str, index: str = "", levels: str = "sum") -> str:
    return ATTENTION.replace("INDEX", index).replace("T}", temperature + "}").replace("LEVELS", levels)


def value(text: str, batch: Batch) -> float:
    return float(plan_of(text)(batch).raw["kd/places"].detach())


def test_a_list_holds_one_number_for_each_level(batch: Batch) -> None:
    apart = value(attention("0.5", "[0]"), batch) + value(attention("2", "[1]"), batch)
    assert value(attention("[0.5, 2]"), batch) == pytest.approx(apart, rel=1e-6)
    assert value(attention("0.5"), batch) != pytest.approx(apart, rel=1e-3)


def test_a_list_holds_arithmetic(batch: Batch) -> None:
    text = attention("[T / 2, 2 * T]").replace("nodes:", "constants: {T: 1}\nnodes:")
    assert value(text, batch) == value(attention("[0.5, 2]"), batch)


def test_weights_have_sizes_of_their_own_per_level() -> None:
    wide = HEAD + """nodes:
  hidden: {op: adapter.conv, features: student.neck, channels: [3, 5]}
  aligned: {op: adapter.conv, features: hidden, like: teacher.neck}
terms:
  neck: {loss: loss.l1, student: aligned, teacher: teacher.neck, reduce: sum_of_means}
"""
    shapes = {name: tuple(p.shape[:2]) for name, p in plan_of(wide).ops.named_parameters() if name.endswith("conv.weight")}
    assert (shapes["hidden.0.conv.weight"][0], shapes["hidden.1.conv.weight"][0]) == (3, 5)
    assert (shapes["aligned.0.conv.weight"][1], shapes["aligned.1.conv.weight"][1]) == (3, 5)


def test_levels_are_weighed(batch: Batch) -> None:
    wanted = 3 * value(attention("1", "[0]"), batch) + 0.5 * value(attention("1", "[1]"), batch)
    text = attention("1", levels="[3, 0.5]")
    assert value(text, batch) == pytest.approx(wanted, rel=1e-6)
    assert reduction(plan_of(text).graph, "kd/places").endswith("in each of 2 levels, which are summed with weights 3, 0.5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (attention("[1, 2, 3]"), "nodes.ours.temperature: 3 numbers for 2 levels; give one for each, or one for all"),
        (attention("[1, 2]", "[0]"), "ours.temperature: a list holds one number per level or layer, and there are none here"),
        (attention("[1, -2]"), "nodes.ours.temperature: expected a number above 0 (got -2)"),
        (attention("[]"), "nodes.ours.temperature: expected a number"),
        (attention("1", levels="[1, 2, 3]"), "terms.places.reduce.levels: 3 weights for 2 levels; give one for each"),
        (attention("1", "[0]", "[1, 2]"), "weights are given per level or layer, and there are none here; write weight: NUMBER"),
        (attention("1", levels="[1, -2]"), "expected a number of at least 0 (got -2)"),
    ],
)
def test_lists_that_fit_no_stack_are_refused(text: str, words: str) -> None:
    assert words in faults(text)


def adapter(options: str) -> str:
    return attention("1").replace("attention.spatial", "adapter.conv").replace("temperature: 1", options)


def test_one_set_of_weights_has_one_number() -> None:
    words = "share: levels makes one set of weights for all levels; give one number"
    assert words in faults(adapter("channels: [2, 3], share: levels"))


def test_lists_of_one_entry_are_equally_long() -> None:
    words = "the lists of numbers differ in length: 2 for channels and 3 for kernel"
    assert words in faults(adapter("channels: [2, 3], kernel: [1, 3, 3]"))


def test_equal_lists_are_computed_once() -> None:
    text = attention("[1, 2]").replace("teacher.neck", "student.neck").replace("student: ours", "student: student.neck")
    text = text.replace("teacher: theirs, at", "teacher: teacher.neck, factors: [ours, theirs], at")
    graph = plan_of(text).graph
    assert "ours" in graph
    assert "theirs" not in graph
    assert torch.equal(torch.tensor(graph["ours"].options["temperature"]), torch.tensor([1.0, 2.0]))
