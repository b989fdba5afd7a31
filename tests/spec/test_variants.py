"""Variants and copies of terms together."""

from __future__ import annotations

from kdflow.spec.resolve import parse_method

TEXT = """kdflow: 1
method: test
terms:
  one: {loss: loss.l1, student: student.neck, teacher: teacher.neck, weight: 2, reduce: {over: [2, c], floor: 1}}
  two: {like: one, reduce.over: [3, c]}
variants:
  - {when: {student.family: dense}, set: {terms.two.reduce.levels: mean, terms.one.weight: 5}}
"""


def test_change_inside_a_copied_term_joins_the_copy() -> None:
    terms = parse_method(TEXT).resolve({"student.family": "dense"}).terms
    assert terms["two"].reduce.model_dump(exclude_defaults=True) == {"over": (3.0, "c"), "floor": 1.0, "levels": "mean"}
    assert terms["one"].reduce.levels is None


def test_change_of_a_term_reaches_its_copies() -> None:
    assert parse_method(TEXT).resolve({"student.family": "dense"}).terms["two"].weight == 5
    assert parse_method(TEXT).resolve({"student.family": "two-stage"}).terms["two"].weight == 2
