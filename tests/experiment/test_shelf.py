"""Settings that are only looked at share their detectors, and nothing else changes."""

from __future__ import annotations

import pytest

from kdflow.cli.check import verdict_of, verdicts_of
from kdflow.experiment import build
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import KEPT, Shelf
from tests.paths import BENCH
from tests.spec.corpus import FOLDER

METHODS = ("fitnet", "baseline", "defeat", "fitnet")


def test_verdicts_are_those_of_single_checks_and_detectors_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*METHODS, str(FOLDER / "channels.yaml"), str(BENCH)]
    alone = [verdict_of(name, str(BENCH), {}) for name in names]
    built: list[str] = []
    made = build.build_detector

    def counted(spec, classes, document, owner, seed):
        built.append(owner)
        return made(spec, classes, document, owner, seed)

    monkeypatch.setattr(build, "build_detector", counted)
    assert verdicts_of(names, str(BENCH), {}) == alone
    assert built == ["student", "teacher"]
    assert [bool(verdict.faults) for verdict in alone] == [False] * 4 + [True, False]


def test_plans_are_those_of_detectors_of_their_own() -> None:
    shelf = Shelf()
    for name in METHODS:
        alone, shared = prepare(read_method(name), BENCH), prepare(read_method(name), BENCH, shelf=shelf)
        assert shared.plan.code == alone.plan.code
        assert shared.plan.report == alone.plan.report
        for node in alone.plan.graph.ordered():
            assert repr(shared.plan.graph[node.name].value) == repr(node.value), node.name


def test_a_detector_comes_back_as_it_was_built_whatever_a_plan_did_to_it() -> None:
    shelf = Shelf()
    first = prepare(read_method("fitnet"), BENCH, shelf=shelf)
    teacher = first.detectors["teacher"]
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.stages["backbone"].run.training
    row = shelf.row(first.bench, first.classes, 0)
    again = row.detector("teacher", lambda: None)
    assert again is teacher
    assert all(p.requires_grad for p in teacher.model.parameters())
    assert teacher.model.training
    assert teacher.stages["backbone"].run.training


def test_other_options_seeds_or_classes_are_other_detectors_and_few_are_kept() -> None:
    shelf = Shelf()
    setting = prepare(read_method("baseline"), BENCH, shelf=shelf)
    row = shelf.row(setting.bench, setting.classes, 0)
    assert row is shelf.row(setting.bench.model_copy(update={"bench": "other"}), setting.classes, 0)
    wider = setting.bench.student.model_copy(update={"neck": 32})
    assert row is not shelf.row(setting.bench.model_copy(update={"student": wider}), setting.classes, 0)
    assert row is not shelf.row(setting.bench, ("a",), 0)
    for seed in range(1, KEPT + 1):
        assert row is not shelf.row(setting.bench, setting.classes, seed)
    assert row is not shelf.row(setting.bench, setting.classes, 0), "the row that was not used for longest is gone"
