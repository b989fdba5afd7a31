"""Constants: arithmetic where a number stands."""

from __future__ import annotations

from typing import Any

import pytest

from kdflow.errors import SpecError
from kdflow.spec.method import Method
from kdflow.spec.resolve import parse_method

TEXT = """kdflow: 1
method: test
constants: {mu: 0.8, width: 256, T: 2}
nodes:
  wide: {op: adapter.linear, features: student.neck, channels: [width, width / 2, 5]}
  power: {op: values.formula, a: wide, formula: "T * a ** 2 + min(a, mu)"}
terms:
  one: {loss: loss.l1, student: power, teacher: teacher.neck, weight: 1 - mu, schedule: {warmup: 2 * width}}
  two: {like: one, weight: -(mu - 3) / T, temperature: T, reduce: {over: [T, c]}}
  plain: {loss: loss.l1, student: power, teacher: teacher.neck, weight: 0.5 * 7.5}
variants:
  - {when: {student.family: dense}, set: {constants.mu: 0.25, terms.plain.weight: mu}}
"""


def resolved(family: str = "two-stage", **overrides: Any) -> Method:
    own = {key.replace("__", "."): value for key, value in overrides.items()}
    return parse_method(TEXT).resolve({"student.family": family}, own)


def test_arithmetic_stands_where_a_number_does() -> None:
    method = resolved()
    assert [term.weight for term in method.terms.values()] == pytest.approx([0.2, 1.1, 3.75])
    assert method.terms["one"].schedule == {"warmup": 512}
    assert method.terms["two"].reduce.over == (2, "c")
    assert method.terms["two"].arguments["temperature"] == 2
    assert method.nodes["wide"].arguments["channels"] == [256, 128, 5]


def test_a_formula_takes_constants() -> None:
    assert resolved().nodes["power"].arguments["formula"] == "(2) * a ** 2 + min(a, (0.8))"


def test_one_override_changes_all_places() -> None:
    method = resolved(constants__mu=0.5)
    assert [method.terms["one"].weight, method.terms["two"].weight] == pytest.approx([0.5, 1.25])
    assert "(0.5)" in method.nodes["power"].arguments["formula"]


def test_a_variant_sets_constants_and_uses_them() -> None:
    method = resolved("dense")
    assert method.terms["one"].weight == 0.75
    assert method.terms["plain"].weight == 0.25


def test_a_place_that_is_set_is_free_of_its_constant() -> None:
    assert resolved(terms__one__weight=3, constants__mu=0.5).terms["one"].weight == 3


def test_an_override_may_be_arithmetic() -> None:
    assert resolved(terms__one__weight="mu / 4").terms["one"].weight == pytest.approx(0.2)


def test_an_unknown_constant_cannot_be_set() -> None:
    with pytest.raises(SpecError, match='no constant "nu"'):
        resolved(constants__nu=1)


@pytest.mark.parametrize("text", ["mu ** 2", "mu.real", "mu()", "mu if mu else 1", "[mu]"])
def test_more_than_arithmetic_is_no_number(text: str) -> None:
    with pytest.raises(SpecError, match="expected a number"):
        resolved(terms__one__weight=text)


def test_names_of_nodes_and_ports_are_left_alone() -> None:
    text = TEXT.replace("student: power", "student: wide").replace("wide:", "two-mu:").replace("a: wide", "a: two-mu")
    method = parse_method(text).resolve()
    assert method.nodes["power"].arguments["a"] == "two-mu"


def test_a_wrapper_changes_constants(tmp_path: Any) -> None:
    (tmp_path / "base.yaml").write_text(TEXT)
    wrapper = "kdflow: 1\nmethod: outer\nwraps: base\nconstants: {mu: 0.4}\n"
    method = parse_method(wrapper, str(tmp_path / "outer.yaml"), lambda name: tmp_path / f"{name}.yaml").resolve()
    assert method.terms["one"].weight == pytest.approx(0.6)


def test_a_number_that_is_too_large_is_shown() -> None:
    with pytest.raises(SpecError, match="is no finite number where mu is 1000"):
        resolved(constants__mu=10**400)
