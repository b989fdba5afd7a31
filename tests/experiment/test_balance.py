"""Shares, controllers and calibrated weights of real detectors: what is refused, written down, and stays the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdflow.engine.checkpoint import LAST, read
from kdflow.errors import SpecError
from kdflow.events import PullEvent, Silent, StepEvent, WeightEvent
from kdflow.experiment.identity import identify
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import RunRequest
from kdflow.experiment.result import RunResult
from kdflow.experiment.setup import Setting, prepare
from kdflow.experiment.together import run_together
from kdflow.spec.resolve import MethodSpec, parse_method
from tests.engine.fakes import differences
from tests.paths import BENCH

Tiny = Callable[..., RunResult]
TWO = """
kdflow: 1
method: two
nodes:
  wider: {op: adapter.conv, features: student.neck, like: teacher.neck}
terms:
  one: {loss: loss.squared_error, student: wider, teacher: teacher.neck, weight: WEIGHT, reduce: sum_of_means}
  other: {loss: loss.l1, student: wider, teacher: teacher.neck, weight: 3.0EXTRA, reduce: sum_of_means}
"""


def two(weight: str = "1.0", extra: str = "", more: str = "") -> MethodSpec:
    return parse_method(TWO.replace("WEIGHT", weight).replace("EXTRA", extra) + more, "two.yaml")


def setting(spec: MethodSpec, **overrides: Any) -> Setting:
    return prepare(spec, BENCH, overrides={key.replace("__", "."): value for key, value in overrides.items()})


def refused(spec: MethodSpec, **overrides: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        setting(spec, **overrides)
    return [f"{fault.line} {fault.path}: {fault.problem}" for fault in caught.value.faults]


class Log(Silent):
    def __init__(self) -> None:
        self.weights: list[WeightEvent] = []
        self.pulls: list[PullEvent] = []

    def weights_changed(self, event: WeightEvent) -> None:
        self.weights.append(event)

    def pulls_known(self, event: PullEvent) -> None:
        self.pulls.append(event)


PHASES = """
phases:
  - {name: taught, steps: 0.5, terms: ["kd/*"]}
  - {name: all, steps: 0.5}
"""


@pytest.mark.parametrize(
    ("spec", "overrides", "words"),
    [
        (
            two("{share: 0.6}", extra=", control: {share: 0.1, of: [head.*]}"), {},
            '8 terms.other.control.of[0]: "head.*" fits no parameter that trains. (known: ',
        ),
        (
            two("{share: 0.6}"), {"recipe__calibrate": {"share": 0.6}},
            "7 terms.one.weight: the shares of one are 0.6 together, and recipe.calibrate.share is 0.6, so nothing is left for",
        ),
        (
            two("{share: 0.6}"), {"terms__other.weight": {"share": 0.4}},
            "8 terms.other.weight: the shares of one, other are 1 together; below 1 something is left for the detector's losses",
        ),
        (
            two("{share: 0.6}", more=PHASES), {},
            "7 terms.one.weight: a share is counted beside the detector's own losses, and in phase taught none of them is",
        ),
        (
            two(extra=", control: {share: 0.1}", more=PHASES), {},
            "8 terms.other.control: a share is counted beside the detector's own losses, and in phase taught none of them is",
        ),
        (
            two(extra=", schedule: {stop: lr_drop}"), {"recipe__schedule": {"name": "constant"}},
            "8 terms.other.schedule: the recipe's learning rate (constant) never drops; write a length in place of lr_drop",
        ),
        (
            two("{share: 0.6}"), {"teacher__recipe.calibrate": True},
            "teacher.recipe: calibrate has no effect on a teacher, which has no terms",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused(spec: MethodSpec, overrides: Mapping[str, Any], words: str) -> None:
    (found,) = refused(spec, **overrides)
    assert words in found


def test_a_share_of_a_term_that_trains_no_student_is_refused() -> None:
    text = """
kdflow: 1
method: lesson
terms:
  lesson: {value: teacher.losses.loss_classifier, at: cnn/rpn-roi, weight: {share: 0.5}}
phases:
  - {name: teacher, steps: 0.5, terms: [lesson], train: ["teacher.roi_heads.*"]}
  - {name: student, steps: 0.5, terms: ["det/*"]}
"""
    assert "this term trains modules of the method, not the student" in refused(parse_method(text, "lesson.yaml"))[0]


def test_hashes_of_runs_without_calibration_stay_and_the_bench_is_the_same_with_it() -> None:
    plain, calibrated = setting(two()), setting(two(), recipe__calibrate=True)
    other = setting(two(), recipe__calibrate={"share": 0.3})
    known = [identify(one, "data", threads=1) for one in (plain, calibrated, other)]
    assert len({one.run for one in known}) == len({one.definition for one in known}) == 3
    assert len({one.bench for one in known}) == len({one.stream for one in known}) == 1
    assert "calibrate" not in str(known[0].parts)
    assert "control" not in str(known[0].parts)
    assert identify(setting(two(extra=", control: {share: 0.2}")), "data", threads=1).run != known[0].run
    baseline = [setting(read_method("baseline"), **change) for change in ({}, {"recipe__calibrate": True})]
    assert len({identify(one, "data", threads=1).run for one in baseline}) == 1  # nothing there to calibrate


def test_what_is_shown_of_a_share_is_no_number() -> None:
    terms = {t.name: t.strength for t in setting(two("{share: 0.5}", extra=", control: {share: 0.1}")).plan.terms}
    assert terms["kd/one"] == "share 0.5"
    assert terms["kd/other"] == "3, keeps share 0.1"
    assert terms["det/loss_classifier"] == "1"


@pytest.mark.parametrize("name", ["step", "cosine", "linear", "one_cycle"])
def test_a_term_stops_where_the_learning_rate_first_falls(name: str, tiny: Tiny, any_teacher: None) -> None:
    """What every schedule of the engine does, seen from the record."""
    class Rates(Silent):
        def __init__(self) -> None:
            self.steps: list[tuple[float, bool]] = []

        def step_ended(self, event: StepEvent) -> None:
            if "kd/other" in event.weighted:  # the teacher's training is heard, too
                self.steps.append((event.lr, event.weighted["kd/other"] != 0))

    log = Rates()
    changes = {"recipe.schedule": {"name": name, "warmup": 2}, "recipe.steps": 7}
    tiny(two(extra=", schedule: {stop: lr_drop}"), overrides=changes, hooks=(log,))
    rates = [rate for rate, _ in log.steps]
    first = next(step for step in range(1, 7) if rates[step] < rates[step - 1])
    assert [counts for _, counts in log.steps] == [step < first for step in range(7)]


def test_calibrated_weights_are_written_down_and_numbers_train_the_same(tiny: Tiny, any_teacher: None, tmp_path: Path) -> None:
    log, rest = Log(), {"recipe.calibrate.share": 0.75, "recipe.calibrate.batches": 2}
    result = tiny(two("{share: 0.25}"), calibrate=True, overrides=rest, hooks=(log,))
    (event,) = log.weights
    found = {change.term.removeprefix("kd/"): change.after for change in event.changes}
    assert event.calibrated
    assert sorted(found) == ["one", "other"]
    filled = yaml.safe_load((Path(result.folder) / "run.yaml").read_text())
    assert {name: term["weight"] for name, term in filled["method"]["terms"].items()} == found
    assert filled["calibrated"]["weights"] == {"one": {"share": 0.25}, "other": 3.0}
    assert filled["calibrated"]["recipe.calibrate"] == {"share": 0.75, "batches": 2}
    written = tiny(two(), overrides={f"terms.{name}.weight": weight for name, weight in found.items()})
    assert differences(read(Path(result.folder) / LAST)["plan"], read(Path(written.folder) / LAST)["plan"]) == []
    assert result.run_hash != written.run_hash
    again = tiny(two("{share: 0.25}"), calibrate=True, overrides=rest, resume=True)
    assert again.run_hash == result.run_hash  # finished: nothing is trained, and the filled spec stays
    assert yaml.safe_load((Path(result.folder) / "run.yaml").read_text()) == filled


def test_together_sets_the_weights_that_each_has_alone(tiny: Tiny, any_teacher: None, tmp_path: Path) -> None:
    specs = [two("{share: 0.25}"), read_method("defeat")]
    changes = {"recipe.calibrate": True, "recipe.steps": 3}
    requests = [RunRequest(spec, BENCH, overrides=changes) for spec in specs]
    together = run_together(requests, output=tmp_path / "together", device="cpu", notify=lambda _: None)
    for spec, result in zip(specs, together, strict=True):
        alone = tiny(spec, overrides=changes)
        states = [read(Path(one.folder) / LAST) for one in (result, alone)]
        assert states[0]["calibrated"]
        keys = ("plan", "weights", "calibrated", "random", "optimizer")
        assert differences(*({key: state[key] for key in keys} for state in states)) == []
        assert result.pulls == alone.pulls


def test_calibrated_terms_pull_as_they_should(tiny: Tiny, any_teacher: None) -> None:
    """On the very batches that were looked at, the first step's; its random draws differ, so the pull is met about."""
    log = Log()
    tiny("fitnet", calibrate=True, overrides={"recipe.steps": 1, "recipe.calibrate.batches": 1}, hooks=(log,))
    (pull,) = log.pulls[0].pulls
    assert pull.pull == pytest.approx(1.0, rel=0.2)
    assert pull.weight == log.weights[0].changes[0].after != log.weights[0].changes[0].before == 1.0
