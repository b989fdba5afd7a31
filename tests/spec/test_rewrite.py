"""A method that transforms another's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdflow.errors import SpecError
from kdflow.spec.method import Method
from kdflow.spec.resolve import MethodSpec, load_method

BASE = """kdflow: 1
method: base
nodes:
  a: {op: mask.complement, mask: b}
terms:
  one: {loss: loss.l1, student: a, teacher: teacher.neck, weight: 2, schedule: {decay: linear}}
  two: {like: one, student: student.neck, weight: 3}
  classes: {loss: loss.kl, student: [student.head.logits, student.rpn.logits], teacher: teacher.head.logits}
  det.loss: {weight: 0.5}
variants:
  - {when: {student.family: dense}, drop: [terms.one, terms.two]}
"""
RULE = """rewrite:
  - where: {loss: loss.l1}
    nodes: {"{term}_flat": {op: transform.relu, features: "{student}"}}
    terms: {"{term}_late": {like: "{term}", loss: loss.smooth_l1, student: "{term}_flat", schedule.defer: 0.5}}
    set: {schedule.stop: 0.5, reduce.over: [elements]}
"""


@pytest.fixture
def load(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "rules.yaml").write_text(f"kdflow: 1\nmethod: rules\nwraps: base\n{RULE}")

    def load_text(text: str, wraps: str = "base") -> MethodSpec:
        (tmp_path / "own.yaml").write_text(f"kdflow: 1\nmethod: own\nwraps: {wraps}\n{text}")
        return load_method(tmp_path / "own.yaml", lambda name: tmp_path / f"{name}.yaml")

    return load_text


def faults(load: Any, text: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        load(text)
    return [f"{fault.line} {fault.path}: {fault.problem}" for fault in error.value.faults]


def test_a_rule_adds_nodes_and_terms_beside_every_term_that_fits(load) -> None:
    method: Method = load(RULE).resolve()
    assert list(method.nodes) == ["a", "one_flat", "two_flat"]
    assert method.nodes["two_flat"].arguments == {"features": "student.neck"}
    assert [n for n in method.terms if n.endswith("late")] == ["one_late", "two_late"]
    late = method.terms["two_late"]
    assert (late.loss, late.weight, late.arguments["student"]) == ("loss.smooth_l1", 3, "two_flat")


def test_copies_are_made_of_the_term_as_it_was_and_changes_join_what_is_there(load) -> None:
    method = load(RULE).resolve()
    assert method.terms["one"].schedule == {"decay": "linear", "stop": 0.5}
    assert method.terms["one_late"].schedule == {"decay": "linear", "defer": 0.5}
    assert method.terms["one"].reduce.over == ("elements",)


def test_terms_that_do_not_fit_and_the_detectors_own_losses_stay(load) -> None:
    plain, changed = load("").resolve(), load('rewrite: [{set: {weight: 7}, where: {term: "[oc]*"}}]\n').resolve()
    assert changed.terms["two"] == plain.terms["two"]
    assert changed.terms["det.loss"] == plain.terms["det.loss"]
    assert changed.terms["one"].weight == changed.terms["classes"].weight == 7


def test_a_list_of_references_is_passed_on_as_it_is(load) -> None:
    method = load('rewrite: [{where: {term: classes}, nodes: {n: {op: x, features: "{student}"}}}]\n').resolve()
    assert method.nodes["n"].arguments == {"features": ["student.head.logits", "student.rpn.logits"]}


def test_rules_of_another_method_can_be_taken_by_name_and_wrapped_rules_come_first(load) -> None:
    named = load("rewrite: rules\n").resolve()
    assert named.terms["one_late"] == load(RULE).resolve().terms["one_late"]
    both = load('rewrite: [{where: {term: "*_late"}, set: {weight: 9}}]\n', wraps="rules").resolve()
    assert both.terms["one_late"].weight == both.terms["two_late"].weight == 9
    assert both.terms["one"].weight == 2


def test_what_is_set_on_a_term_counts_for_what_a_rule_makes_of_it(load) -> None:
    method = load(RULE).resolve(overrides={"terms.one.weight": 5, "terms.two_late.weight": 8})
    assert [method.terms[n].weight for n in ("one", "one_late", "two", "two_late")] == [5, 5, 3, 8]


def test_rules_see_what_variants_left(load) -> None:
    method = load(RULE).resolve({"student.family": "dense"})
    assert list(method.terms) == ["classes", "det.loss"]
    assert method.rewrite == ()


def test_added_entries_may_be_searched(load) -> None:
    text = RULE + "search: {terms.one_late.weight: {low: 1, high: 2}}\n"
    assert list(load(text).resolve().search) == ["terms.one_late.weight"]
    (fault,) = faults(load, text.replace("one_late.weight", "one_last.weight"))
    assert 'nothing is called "terms.one_last.weight"' in fault


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("rewrite: {set: {weight: 1}}\n", 4, "expected a list of rules"),
        ("rewrite:\n  - set: {weight: 1}\n    wheer: {}\n", 6, 'unknown key "wheer"'),
        ("rewrite:\n  - where: {loss: loss.nothing}\n    set: {weight: 1}\n", 5, "no term fits; this method has one, two"),
        ('rewrite:\n  - where: {term: one}\n    nodes: {n: {op: x, y: "a{labels}"}}\n', 6, 'terms.one has no "labels"'),
        ("rewrite:\n  - where: {term: one}\n", 5, "this rule changes nothing"),
        ("rewrite:\n  - nodes: {n: {op: x}}\n", 5, 'nodes have a "n" already; put {term} into the name'),
    ],
)
def test_mistakes_are_shown_at_the_rule(load, text: str, line: int, words: str) -> None:
    assert any(fault.startswith(str(line)) and words in fault for fault in faults(load, text)), faults(load, text)


def test_methods_that_wrap_each_other_are_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"kdflow: 1\nmethod: {one}\nwraps: {other}\n")
    with pytest.raises(SpecError, match="leads back to itself"):
        load_method(tmp_path / "a.yaml", lambda name: tmp_path / f"{name}.yaml")
