"""``kdflow run``: what it prints where, and its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdflow.errors import InvariantError
from kdflow.events import EvaluationEvent, RunEnded, RunStarted, StepEvent
from kdflow.experiment.run import RunResult


def result(method: str = "baseline", status: str = "finished") -> RunResult:
    return RunResult(
        method=method,
        bench="tiny",
        seed=3,
        run_id="r1",
        status=status,
        metrics={"AP": 12.5, "AP50": 25.0, "voc_ap50": 30.0},
        validation={},
        step_ms=40.0,
        resumed_from_step=0,
        teacher_stages_run=(),
        teacher_stages_pruned=(),
        student_path="/runs/student.pt",
        folder="/runs",
    )


@pytest.fixture
def asked(monkeypatch):
    """Stands in for the training; remembers what it was asked for."""
    calls = []

    def run(spec, **settings):
        calls.append((spec, settings))
        settings["notify"]("about to begin")
        (hook,) = settings["hooks"]
        hook.run_started(RunStarted(Path("/runs"), 10, 0, "cpu", 1, ("det/loss",)))
        hook.step_ended(StepEvent(5, 10, "", 1.25, {}, {}, 0.1, 0.04, 50.0))
        hook.evaluation_ended(EvaluationEvent(10, {"AP": 12.5}, "AP", 12.5, True))
        hook.run_ended(RunEnded("finished", 10))
        return result(spec)

    monkeypatch.setattr("kdflow.experiment.run.run", run)
    return calls


def test_options_arrive(call, asked, tiny):
    words = (
        "--bench",
        tiny,
        "--seed",
        3,
        "--steps",
        9,
        "--device",
        "cpu",
        "--precision",
        "bf16",
        "--compile",
        "--calibrate",
        "--output",
        "out",
        "--resume",
        "--track",
        "tensorboard",
    )
    assert call("run", "baseline", *words, "--set", "recipe.batch=4").code == 0
    ((spec, settings),) = asked
    hooks = settings.pop("hooks")
    settings.pop("notify")
    assert (spec, len(hooks)) == ("baseline", 1)
    assert settings == {
        "bench": str(tiny),
        "seed": 3,
        "steps": 9,
        "device": "cpu",
        "precision": "bf16",
        "compiled": True,
        "fast": False,
        "calibrate": True,
        "output": Path("out"),
        "resume": True,
        "trackers": ["tensorboard"],
        "overrides": {"recipe.batch": 4},
    }


def test_result_goes_to_stdout_and_progress_to_stderr(call, asked):
    done = call("run", "baseline")
    assert done.out.startswith("baseline on tiny, seed 3: finished  AP 12.50  AP50 25.00  voc_ap50 30.00  40 ms/step")
    assert "/runs/student.pt" in done.out
    assert "step 5/10  loss 1.25  40 ms/step" in done.err
    assert "about to begin" in done.err


def test_json_is_one_line_per_run_and_nothing_else(call, asked, tiny):
    done = call("run", "baseline", "fitnet", "--bench", tiny, "--json")
    first, second = map(json.loads, done.out.splitlines())
    assert (first["method"], second["method"]) == ("baseline", "fitnet")
    assert first["metrics"] == {"AP": 12.5, "AP50": 25.0, "voc_ap50": 30.0}
    wanted = {
        "method",
        "bench",
        "seed",
        "run_id",
        "status",
        "metrics",
        "step_ms",
        "resumed_from_step",
        "teacher_stages_run",
        "teacher_stages_pruned",
        "student_path",
    }
    assert wanted <= set(first)


def test_a_mistake_in_the_last_spec_stops_before_the_first_runs(call, asked, tiny):
    done = call("run", "baseline", "no-such-method", "--bench", tiny)
    assert done.code == 2
    assert 'no method "no-such-method"' in done.err
    assert asked == []


def test_a_run_that_went_wrong_does_not_end_the_others(call, monkeypatch, tiny):
    def run(spec, **settings):
        if spec == "baseline":
            raise InvariantError("kd/neck", "is always 0")
        return result(spec)

    monkeypatch.setattr("kdflow.experiment.run.run", run)
    done = call("run", "baseline", "fitnet", "--bench", tiny, "--json")
    assert done.code == 1
    assert "baseline: kd/neck: is always 0" in done.err
    assert json.loads(done.out)["method"] == "fitnet"


def test_an_interrupted_run_is_no_success(call, monkeypatch):
    monkeypatch.setattr("kdflow.experiment.run.run", lambda spec, **settings: result(spec, "interrupted"))
    done = call("run", "baseline")
    assert done.code == 1
    assert "interrupted" in done.out


def test_together_is_one_call_for_all(call, monkeypatch, tiny):
    calls = []

    def run_together(requests, **settings):
        calls.append((requests, settings))
        for request in requests:
            (hook,) = request.hooks
            hook.run_started(RunStarted(Path("/runs"), 10, 0, "cpu", 1, ("det/loss",)))
            hook.step_ended(StepEvent(5, 10, "", 1.25, {}, {}, 0.1, 0.04, 50.0))
        return [replace(result(requests[0].spec, "failed"), reason="kd/neck: not finite"), result(requests[1].spec)]

    monkeypatch.setattr("kdflow.experiment.together.run_together", run_together)
    words = ("--bench", tiny, "--seed", 3, "--steps", 9, "--set", "recipe.batch=4", "--together")
    done = call("run", "fitnet", "baseline", *words)
    ((requests, _),) = calls
    assert [(r.spec, r.bench, r.seed, r.overrides) for r in requests] == [
        ("fitnet", str(tiny), 3, {"recipe.batch": 4}),
        ("baseline", str(tiny), 3, {"recipe.batch": 4}),
    ]
    assert {r.steps for r in requests} == {9}
    assert done.code == 1
    assert "fitnet on tiny, seed 3: failed" in done.out
    assert "kd/neck: not finite" in done.out
    assert "baseline on tiny, seed 3: finished" in done.out
    assert "fitnet, seed 3: step 5/10" in done.err


def test_the_real_thing(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = call("run", "baseline", "--bench", tiny, "--output", tmp_path / "runs", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out.splitlines()[-1])
    assert facts["status"] == "finished"
    assert Path(facts["student_path"]).is_file()
    listed = json.loads(call("results", "--runs", tmp_path / "runs", "--by", "bench", "--json").out)
    (line,) = listed["groups"][0]["lines"]
    assert line["method"] == "baseline"
    assert line["mean"]["AP"] == pytest.approx(facts["metrics"]["AP"])


def test_weights_of_another_label_set_are_a_mistake(call, tiny, tmp_path, monkeypatch):
    import torch

    from kdflow.experiment.build import build_detector
    from kdflow.spec.bench import DetectorSpec
    from kdflow.spec.load import Document

    options = {"backbone": "timm:test_resnet", "neck": 32, "box_head": 32, "rpn_post_nms": [50, 20], "roi_samples": 16}
    spec = DetectorSpec(detector="faster-rcnn", **options)
    other = build_detector(spec, ("cat", "dog"), Document("other"), "student", 0)
    torch.save(other.model.state_dict(), tmp_path / "pets.pt")
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    words = ("--set", f"teacher.weights={tmp_path / 'pets.pt'}", "--set", "teacher.recipe=null", "--output", tmp_path / "runs")
    done = call("run", "fitnet", "--bench", tiny, "--device", "cpu", *words)
    assert done.code == 2
    assert "pets.pt" in done.err
    assert "8 classes (circle, triangle" in done.err
