"""One entry for both sides: equal to two entries, in values, weights and names."""

from __future__ import annotations

import torch

from kdflow.graph.compile import compile_given
from kdflow.ports import Batch
from kdflow.spec.resolve import parse_method
from tests.graph.test_plan import HEAD, faults, plan_of

TERMS = """terms:
  one: {loss: loss.l1, student: STUDENT, teacher: TEACHER, at: cnn/neck, reduce: sum_of_means}
"""


def apart(nodes: str, student: str = "ours", teacher: str = "theirs") -> str:
    return HEAD + nodes + TERMS.replace("STUDENT", student).replace("TEACHER", teacher)


def both(nodes: str, name: str = "places") -> str:
    return apart(nodes, f"{name}.student", f"{name}.teacher")


def value(text: str, batch: Batch) -> torch.Tensor:
    return plan_of(text)(batch).raw["kd/one"]


PLACES = "nodes:\n  places: {op: attention.spatial, features: {student: student.neck, teacher: teacher.neck}, temperature: 0.5}\n"


def test_one_entry_equals_two(batch: Batch) -> None:
    two = """nodes:
  ours: {op: attention.spatial, features: student.neck, temperature: 0.5}
  theirs: {op: attention.spatial, features: teacher.neck, temperature: 0.5}
"""
    assert value(both(PLACES), batch).equal(value(apart(two), batch))


def test_options_may_differ(batch: Batch) -> None:
    two = """nodes:
  ours: {op: attention.spatial, features: student.neck, temperature: 0.5}
  theirs: {op: attention.spatial, features: teacher.neck, temperature: 2}
"""
    one = PLACES.replace("temperature: 0.5", "temperature: {student: 0.5, teacher: 2}")
    assert value(both(one), batch).equal(value(apart(two), batch))


def test_what_takes_a_node_with_two_sides_has_two_as_well(batch: Batch) -> None:
    two = """nodes:
  ours: {op: attention.spatial, features: student.neck}
  theirs: {op: attention.spatial, features: teacher.neck}
  ours_twice: {op: values.formula, a: ours, b: ours, formula: a * b}
  theirs_twice: {op: values.formula, a: theirs, b: theirs, formula: a * b}
"""
    one = PLACES.replace(", temperature: 0.5", "") + "  twice: {op: values.formula, a: places, b: places, formula: a * b}\n"
    assert value(both(one, "twice"), batch).equal(value(apart(two, "ours_twice", "theirs_twice"), batch))


def test_an_op_that_gives_both_sides_is_read_by_its_name(batch: Batch) -> None:
    start = "nodes:\n  maps: {op: tap.same_grid, student: student.neck, teacher: teacher.neck}\n"
    two = """  ours: {op: attention.spatial, features: maps.student}
  theirs: {op: attention.spatial, features: maps.teacher}
"""
    one = "  places: {op: attention.spatial, features: maps}\n"
    assert value(both(start + one), batch).equal(value(apart(start + two), batch))


def test_each_side_has_weights_of_its_own_unless_a_module_is_shared(batch: Batch) -> None:
    wide = "nodes:\n  wide: {op: adapter.conv, features: {student: student.neck, teacher: teacher.neck}, like: teacher.neck}\n"
    plan = plan_of(both(wide, "wide"))
    assert {name.split(".")[0] for name, _ in plan.ops.named_parameters()} == {"wide_student", "wide_teacher"}
    assert plan(batch).raw["kd/one"] > 0
    shared = "modules:\n  one: {op: adapter.conv, channels: 4}\n" + wide.replace("op: adapter.conv", "module: one").replace(
        ", like: teacher.neck", ""
    )
    assert {name.split(".")[0] for name, _ in plan_of(both(shared, "wide")).ops.named_parameters()} == {"one"}


def test_weights_of_a_side_need_a_free_name() -> None:
    text = both("""nodes:
  wide_student: {op: attention.spatial, features: student.neck}
  wide: {op: adapter.conv, features: {student: student.neck, teacher: wide_student}, like: teacher.neck}
""", "wide")
    assert 'the weights of "wide" are kept as "wide_student"' in faults(text)


def test_one_mistake_is_said_once_for_both_sides() -> None:
    assert faults(both(PLACES.replace("0.5", "-1"))).count("temperature") == 1


def test_a_side_may_be_given() -> None:
    spec = parse_method(both(PLACES), "test.yaml")
    ours, theirs = (torch.full((1, 1, 2, 2), float(value)) for value in (1, 3))
    given = {"places.student": ours, "places.teacher": theirs}
    plan = compile_given(spec.resolve(), spec.document, given)
    assert float(plan.evaluate({}, ["kd/one"])["kd/one"]) == 2
