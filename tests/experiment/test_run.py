"""Whole runs on a bench of eight images."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdflow.data.formats import open_data
from kdflow.engine.evaluate import judge
from kdflow.errors import InvariantError
from kdflow.experiment.findings import read_detections
from kdflow.experiment.run import RunResult
from kdflow.results.measured import read_records
from kdflow.urls import sqlite_url
from tests.paths import BENCH

Tiny = Callable[..., RunResult]
ROOT = Path(__file__).parents[2]


def test_run_leaves_a_student_a_filled_spec_and_a_record(tiny: Tiny, any_teacher: None, tmp_path: Path) -> None:
    result = tiny("fitnet")
    folder = Path(result.folder)
    assert result.status == "finished"
    assert {"AP", "AP50", "voc_ap50"} <= set(result.metrics)
    assert result.teacher_stages_run == ("teacher.normalize", "teacher.backbone", "teacher.neck")
    assert result.student_path is not None
    assert Path(result.student_path).is_absolute()
    filled = yaml.safe_load((folder / "run.yaml").read_text())
    assert filled["method"]["terms"]["hint"]["weight"] == 1.0
    assert "svg" in (folder / "graph.svg").read_text()
    (record,) = read_records(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert (record.method, record.nodes, record.run_id) == ("fitnet", ("cnn/neck",), result.run_id)
    assert record.metrics["AP50"] == pytest.approx(result.metrics["AP50"])


def test_student_has_no_branch_of_the_method_and_loads_without_kdflow(tiny: Tiny, any_teacher: None) -> None:
    result = tiny("fitnet")
    code = (
        "import sys, student; model = student.load(); "
        "assert not any(m.split('.')[0] == 'kdflow' for m in sys.modules), 'kdflow was imported'; "
        "assert not model.training; print(len(model.state_dict()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=result.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    state = torch.load(Path(result.folder) / "student.pt", weights_only=True)
    assert int(done.stdout) == len(state)
    assert not any("aligned" in name or name.startswith("ops") for name in state)


def test_equal_runs_give_equal_students(tiny: Tiny, tmp_path: Path) -> None:
    first, second = tiny("baseline"), tiny("baseline", output=tmp_path / "again")
    one, two = (torch.load(str(r.student_path), weights_only=True) for r in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert Path(first.folder).name == Path(second.folder).name


def test_teacher_is_trained_once_and_starts_every_student_alike(tiny: Tiny, any_teacher: None, tmp_path: Path) -> None:
    tiny("fitnet")
    again: list[str] = []
    tiny("defeat", seed=1, notify=again.append)
    assert not any("trained once" in line for line in again)
    assert any("validation" in line for line in again)


def test_a_teacher_no_better_than_chance_stops_the_run(tiny: Tiny) -> None:
    with pytest.raises(InvariantError, match=r"teacher.*no better than chance"):
        tiny("fitnet")


def test_finished_run_is_reported_and_not_repeated_with_resume(tiny: Tiny) -> None:
    first = tiny("baseline")
    said: list[str] = []
    assert tiny("baseline", resume=True, notify=said.append) == first
    assert "finished" in said[0]


def command(*words: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("drive.py")), "run", "fitnet", "--bench", str(BENCH), *words]


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def test_run_killed_in_mid_training_resumes_to_the_same_weights(home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "KDFLOW_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--steps", "8", "--set", "recipe.checkpoint_every=2", "--device", "cpu", "--json"]
    whole = subprocess.run(
        command(*options, "--output", str(tmp_path / "whole")), env=environment, capture_output=True, text=True, timeout=300
    )
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen(
        command(*options, "--output", str(tmp_path / "killed")), env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: any((tmp_path / "killed").rglob("previous.pt")), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = subprocess.run(
        command(*options, "--output", str(tmp_path / "killed"), "--resume"),
        env=environment, capture_output=True, text=True, timeout=300,
    )
    assert resumed.returncode == 0, resumed.stderr
    one, two = last_json(whole.stdout), last_json(resumed.stdout)
    assert 0 < two["resumed_from_step"] < 8
    assert one["resumed_from_step"] == 0
    weights = [torch.load(r["student_path"], weights_only=True) for r in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared in two minutes")


@pytest.mark.usefixtures("any_teacher")
def test_detections_of_the_test_split_are_kept_in_pixels_and_ids_of_the_data(tiny: Tiny, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    result = tiny("fitnet")
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(Path(result.folder) / "detections.json"))
    kept = read_detections(Path(result.folder) / "detections.json")
    assert kept is not None
    assert kept.evaluation.metrics == pytest.approx(dict(result.metrics))
    assert len(found.imgs) == 4
    assert {one["name"] for one in found.cats.values()} == set(result.classes)
    source = open_data("shapes", {"pixels": 64, "images": {"train": 8, "val": 4, "test": 4}})
    again = judge(kept.by_image, source.splits["test"].coco)
    assert again == pytest.approx(dict(result.metrics), abs=0.01)
    assert set(result.teachers) == {"teacher"}
    theirs = read_detections(Path(result.teachers["teacher"]["detections"]))
    assert theirs is not None
    assert theirs.evaluation.metrics == pytest.approx(result.teachers["teacher"]["metrics"])
    (record,) = read_records(sqlite_url(tmp_path / "runs" / "mlflow.db"))
    assert record.reached["AP"] == pytest.approx(result.teachers["teacher"]["metrics"]["AP"])
    assert record.classes["circle"] == pytest.approx(result.classes["circle"]["AP"])


def test_a_class_that_is_never_found_is_told(tiny: Tiny) -> None:
    said: list[str] = []
    result = tiny("baseline", notify=said.append)
    lost = [name for name, numbers in result.classes.items() if numbers["objects"] and numbers["AP"] == 0]
    assert lost, "two steps of training find nothing"
    for name in lost:
        words = f"class {name}: AP 0 on {result.classes[name]['objects']} objects"
        assert words in result.notes
        assert any(words in line for line in said)


def test_a_run_is_written_to_other_trackers_too(tiny: Tiny, any_teacher: None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = tiny("fitnet", steps=2, trackers=["tensorboard"])
    read = EventAccumulator(f"{result.folder}/tensorboard")
    read.Reload()
    (last,) = read.Scalars("test/AP")
    assert (last.step, last.value) == (2, pytest.approx(result.metrics["AP"]))
