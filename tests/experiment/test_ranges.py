"""Ranges over a bench are judged when the method is, at their lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdflow.errors import SpecError
from kdflow.experiment.identity import teacher_identity
from kdflow.experiment.ranges import teacher_sizes
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf
from kdflow.spec.resolve import parse_method
from tests.paths import BENCH

SHELF = Shelf()
HINT = """kdflow: 1
method: hint
nodes: {n: {op: adapter.conv, features: student.neck, like: teacher.neck}}
terms: {t: {loss: loss.squared_error, student: n, teacher: teacher.neck, reduce: sum_of_means}}
"""


def problems(search: str, bench: str | Path = BENCH) -> list[str]:
    try:
        prepare(parse_method(f"{HINT}search:\n  {search}\n"), bench, shelf=SHELF)
    except SpecError as error:
        return [f"{fault.line}: {fault.problem}" for fault in error.faults]
    return []


@pytest.mark.parametrize(
    "search",
    [
        "student.neck: {low: 8, high: 32, step: 8}",
        "student.depths: {choices: [[1, 1, 1, 1], [1, 2, 1, 1]]}",
        "data.size: {choices: [48, 64]}",
        "teacher.neck: {choices: [16, 32]}",
        "recipe.batch: {choices: [1, 2]}",
        "student.head_norm: {choices: [none, group]}",  # of other detectors: left aside on this bench
    ],
)
def test_what_a_search_may_choose_of_a_bench(search: str) -> None:
    assert problems(search) == []


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("student.nekc: {low: 8, high: 32}", '^6: student.nekc: unknown key.*Did you mean "neck"'),
        ("student.neck: {choices: [16, wide]}", "wide is no value of student.neck.*whole number"),
        ("student.neck: {low: 0, high: 32}", "0 is no value of student.neck"),
        ("student.depths: {choices: [[1, 1, 1, 1], [1, 1]]}", "one number for each of the four stages"),
        ("recipe.optimiser.lr: {low: 0.1, high: 1}", "recipe.optimiser.lr.*unknown key"),
        ("data.flip: {choices: [0, 0.5]}", "data.flip changes the teacher as well.*weights:"),
        ("data.images: {choices: [8, 16]}", "data.images cannot be searched.*same images"),
        ("evaluation.metric: {choices: [AP, AP50]}", "evaluation.metric cannot be searched.*judged"),
        ("teacher.neck: {low: 16, high: 32}", "another teacher.*choices"),
        ("teachers.large.neck: {choices: [16, 32]}", 'no teacher "large"'),
    ],
)
def test_what_it_may_not(search: str, words: str) -> None:
    found = problems(search)
    assert len(found) == 1, found
    assert re.search(words, found[0]), found[0]


def test_a_searched_size_leaves_the_teacher_as_it_is(tmp_path: Path) -> None:
    spec = parse_method(f"{HINT}search: {{data.size: {{choices: [48, 64]}}}}\n")
    setting = prepare(spec, BENCH, shelf=SHELF)
    sizes = teacher_sizes(setting.method.search, setting.bench)
    assert sizes == {"teacher.size": 64}
    small = prepare(spec, BENCH, shelf=SHELF, overrides={**sizes, "data.size": 48})
    assert small.bench.data.size == 48
    known, same = (
        teacher_identity(one.bench.all_teachers["teacher"], one.detectors["teacher"], one.bench, "") for one in (setting, small)
    )
    assert known == same
    alone = prepare(spec, BENCH, shelf=SHELF, overrides={"data.size": 48})
    assert teacher_identity(alone.bench.all_teachers["teacher"], alone.detectors["teacher"], alone.bench, "") != known
