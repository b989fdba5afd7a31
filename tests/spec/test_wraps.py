"""A method that changes another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.errors import SpecError
from kdflow.spec.resolve import load_method

BASE = """kdflow: 1
method: base
nodes:
  a: {op: mask.complement, mask: b}
terms:
  one: {loss: loss.l1, student: a, teacher: a, weight: 2}
  two: {like: one, weight: 3}
search:
  terms.one.weight: {low: 1, high: 2}
  terms.two.weight: {low: 1, high: 2}
variants:
  - {when: {student.family: dense}, drop: [terms.one, terms.two], set: {terms.two.weight: 9}}
"""


@pytest.fixture
def load(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(BASE)

    def load_text(text: str):
        (tmp_path / "own.yaml").write_text(f"kdflow: 1\nmethod: own\nwraps: base\n{text}")
        return load_method(tmp_path / "own.yaml", lambda name: tmp_path / f"{name}.yaml")

    return load_text


def test_entries_are_joined_key_by_key(load):
    method = load("terms: {one: {weight: 5}}\n").resolve()
    assert method.method == "own"
    assert method.terms["one"].weight == 5
    assert method.terms["one"].loss == "loss.l1"


def test_a_removed_entry_is_forgotten_everywhere(load):
    spec = load("terms: {two: null}\n")
    method = spec.resolve()
    assert list(method.terms) == ["one"]
    assert list(method.search) == ["terms.one.weight"]
    assert method.variants[0].drop == ("terms.one",)
    assert spec.resolve({"student.family": "dense"}).terms == {}


def test_a_variant_that_spoke_of_removed_entries_alone_is_forgotten(load):
    extra = "variants:\n  - {when: {student.family: dense}, drop: [nodes.c]}\n"
    c = "nodes: {c: {op: mask.complement, mask: b}}\n"
    spec = load(c + "terms: {one: null, two: null, three: {loss: loss.l1, student: a, teacher: c}}\n" + extra)
    assert [variant["drop"] for variant in spec.variants] == [["nodes.c"]]
    with pytest.raises(SpecError) as error:
        load(extra.replace("nodes.c", "nodes.d"))
    assert [fault.line for fault in error.value.faults] == [5]


def test_a_fault_in_what_was_taken_over_points_at_the_line_that_names_it(load):
    with pytest.raises(SpecError) as error:
        load("terms: {one: null}\n")
    (fault,) = error.value.faults
    assert (fault.line, fault.path) == (3, "terms.two.like")
    assert 'no term "one"' in fault.problem


def test_own_variants_follow_those_of_the_wrapped_method(load):
    spec = load(
        "variants: [{when: {student.family: dense}, set: {terms.one: {loss: loss.kl, student: a, teacher: a}}}]\n"
    )
    assert list(spec.resolve({"student.family": "dense"}).terms) == ["one"]
