"""The words of a complaint."""

from __future__ import annotations

import pytest

from kdflow.errors import SpecError
from kdflow.spec.resolve import parse_method


def faults(text: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        parse_method(f"kdflow: 1\nmethod: x\n{text}", "x.yaml")
    return [str(fault) for fault in error.value.faults]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fidelity: papr",
            'x.yaml:3:1  fidelity: expected "code", "paper" or "reconstructed" (got "papr"). Did you mean "paper"?',
        ),
        ("terms: {a: {loss: l, weight: true, factors: 3}}", "x.yaml:3:36  terms.a.factors: expected a list (got 3)"),
        ("paper: {year: soon}", 'x.yaml:3:9  paper.year: expected a whole number (got "soon")'),
        ("terms: {a: {loss: l, rows: 3}}", "x.yaml:3:22  terms.a.rows: expected a word or a list (got 3)"),
        ("title: {a: 1}", "x.yaml:3:1  title: expected a word"),
        ("phases: [{name: a, steps: -1}]", "x.yaml:3:20  phases[0].steps: expected a number above 0 (got -1)"),
        ("terms: 3", "x.yaml:3:1  terms: expected a mapping of keys to values (got 3)"),
        ("terms: {a: {loss: l, drop: perhaps}}", 'x.yaml:3:22  terms.a.drop: expected true or false (got "perhaps")'),
        ("title: null", "x.yaml:3:1  title: expected a word (got nothing)"),
    ],
)
def test_one_fault_per_mistake_in_plain_words(text, message):
    assert faults(text) == [message]
