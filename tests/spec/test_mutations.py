"""A letter too many anywhere in a shipped method is refused at its line, also where no bench of the day reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.errors import Fault, SpecError
from kdflow.experiment.find import find_method, known_benches
from kdflow.graph.everywhere import faults_everywhere
from kdflow.resources import specs_folder
from kdflow.spec.leads import faults_of
from kdflow.spec.resolve import read_spec
from tests.spec.mutations import mutations_of

METHODS = sorted(specs_folder().glob("*.yaml"))
EVERY = 40
"""Of the places outside of variants and rules, which a bench reads anyway, one in so many is tried."""
INSIDE = 3
"""The same for places inside of them."""


def faults(path: Path) -> list[Fault]:
    try:
        spec = read_spec(path, find_method)
    except SpecError as error:
        return list(error.faults)
    shape = faults_of(spec)
    return [*shape, *faults_everywhere(spec, known_benches())]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_shipped_method_is_sound_in_every_part(path: Path) -> None:
    assert faults(path) == []


def test_there_is_much_to_mutate() -> None:
    found = [mutation for path in METHODS for mutation in mutations_of(path)]
    assert len(found) > 3000
    assert sum(mutation.inside for mutation in found) > 200


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_one_letter_too_many_is_refused_at_its_line(path: Path, tmp_path: Path) -> None:
    every = list(mutations_of(path))
    chosen = [m for m in every if m.inside][len(path.stem) % INSIDE :: INSIDE]
    chosen += [m for m in every if not m.inside][len(path.stem) % EVERY :: EVERY]
    file = tmp_path / path.name
    passed = []
    for mutation in chosen:
        file.write_text(mutation.text)
        if not any(fault.line == mutation.line for fault in faults(file)):
            passed.append(f"{mutation.line} {mutation.place}")
    assert not passed
