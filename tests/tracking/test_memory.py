from pathlib import Path
from types import SimpleNamespace

from kdflow.events import EvaluationEvent, RunEnded, RunStarted, StepEvent
from kdflow.results.measured import measured_record
from kdflow.tracking.memory import MemoryTracker
from kdflow.tracking.run import RunFacts


def tracker() -> MemoryTracker:
    return MemoryTracker(RunFacts(
        method="fgd", bench="shapes-frcnn", seed=1, families={"student": "two-stage", "teacher": "two-stage"},
        detectors={"student": "faster-rcnn", "teacher": "faster-rcnn"}, terms={"kd/neck": ("cnn/neck",)},
    ))


def start(resumed: int = 0) -> RunStarted:
    return RunStarted(Path("runs/x"), 40, resumed, "cpu", 1, ("kd/neck",))


def step(number: int) -> StepEvent:
    return StepEvent(number, 40, "", 1.0, {"kd/neck": 0.5}, {"kd/neck": 1.0}, 0.01, 0.2, 10.0)


def test_a_run_is_kept_and_becomes_a_record():
    keeper = tracker()
    keeper.run_started(start())
    keeper.step_ended(step(20))
    keeper.evaluation_ended(EvaluationEvent(20, {"AP": 10.0}, "AP", 10.0, True))
    keeper.step_ended(step(40))
    keeper.run_ended(RunEnded("finished", 40))
    keeper.text("run.yaml", "a: 1")
    keeper.finish({"AP": 12.0, "voc_ap50": 30.0}, [Path("student.pt")])
    assert keeper.curves["loss/cnn/neck"] == [(20, 1.0), (40, 1.0)]
    assert keeper.curves["val/AP"] == [(20, 10.0)]
    assert (keeper.texts, keeper.files) == ({"run.yaml": "a: 1"}, [Path("student.pt")])
    record = measured_record(keeper.stored())
    assert (record.origin, record.method, record.seed, record.status) == ("measured", "fgd", 1, "finished")
    assert record.metrics == {"AP": 12.0, "voc_ap50": 30.0}
    assert record.nodes == ("cnn/neck",)
    assert (record.pair, record.detector, record.teacher) == ("homogeneous", "faster-rcnn", "faster-rcnn")
    assert record.knowledge == ("feature", "relation"), "as the method's file in the taxonomy says"


def test_a_repeated_step_is_kept_once():
    keeper = tracker()
    keeper.run_started(start())
    for number in (20, 40):
        keeper.step_ended(step(number))
    keeper.run_started(start(resumed=20))
    keeper.step_ended(step(40))
    assert keeper.curves["loss/total"] == [(20, 1.0), (40, 1.0)]
    assert keeper.tags["kdflow.resumed_from_step"] == "20"


def test_a_run_that_ends_otherwise_says_how():
    keeper = tracker()
    keeper.run_started(start())
    keeper.run_ended(SimpleNamespace(status="stopped", step=20, reason="pruned"))
    assert (keeper.status, keeper.tags["kdflow.reason"]) == ("stopped", "pruned")
