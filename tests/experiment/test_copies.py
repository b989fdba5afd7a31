"""A run with a copy of the teacher's stages: it starts with the trained teacher's weights and leaves with the method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from kdflow.engine.checkpoint import LAST, read
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import Context, RunRequest
from kdflow.experiment.run import RunResult, open_run
from kdflow.experiment.session import open_session
from kdflow.experiment.setup import prepare
from tests.paths import BENCH


def test_the_copy_is_trained_and_saved_and_not_exported(tiny: Callable[..., RunResult], any_teacher: None) -> None:
    result = tiny("head")
    assert result.status == "finished"
    student = torch.load(str(result.student_path), weights_only=True)
    plain = prepare(read_method("baseline"), BENCH).detectors["student"].model.state_dict()
    assert {name: value.shape for name, value in student.items()} == {name: value.shape for name, value in plain.items()}
    saved = read(Path(result.folder) / LAST)["plan"]
    assert {"ops.assistant.roi_head.fc6.weight", "ops.assistant.roi_predict.predictor.cls_score.weight"} <= set(saved)


def test_a_run_opens_with_the_trained_teachers_weights_in_the_copy(
    home: Path, tmp_path: Path, any_teacher: None
) -> None:
    setting = prepare(read_method("head"), BENCH)
    fresh = setting.plan.ops["assistant"].state_dict()["roi_head.fc6.weight"].clone()
    with open_session("cpu") as session:
        open_run(RunRequest("head", BENCH), setting, Context(session, tmp_path, notify=lambda _: None))
    copied = setting.plan.ops["assistant"].state_dict()["roi_head.fc6.weight"]
    assert copied.equal(setting.detectors["teacher"].model.roi_heads.box_head.fc6.weight)
    assert not copied.equal(fresh)
