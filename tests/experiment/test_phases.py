"""Methods with phases and wiring, from the spec to the exported student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.checkpoint import LAST, read
from kdflow.errors import InvariantError, SpecError
from kdflow.experiment.reading import read_method
from kdflow.experiment.run import RunResult
from kdflow.experiment.setup import prepare

Tiny = Callable[..., RunResult]
P2 = Path(__file__).parents[1] / "benches" / "tiny-fcos-p2.yaml"


def reported(result: RunResult) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(result.folder) / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == "step"]


def test_a_run_trains_its_teacher_first_and_exports_a_rewired_student(tiny: Tiny, any_teacher: None) -> None:
    said: list[str] = []
    result = tiny("msrlr", bench=P2, notify=said.append)
    assert result.status == "finished"
    assert said[0] == "teacher: starts untrained, a phase of the method trains it"
    assert any(note.startswith("teacher: AP") and note.endswith("after phase teacher") for note in result.notes)
    assert [step["phase"] for step in reported(result)] == ["teacher"] * 2 + ["student"] * 2
    assert [min(step["raw"]) for step in reported(result)] == ["kd/teacher_fused"] * 2 + ["det/bbox_ctrness"] * 2
    saved = read(Path(result.folder) / LAST)["plan"]
    assert {name.split(".")[0] for name in saved} == {"student", "teacher", "ops"}
    assert result.student_path is not None
    space: dict[str, Any] = {"__file__": str(Path(result.folder) / "student.py"), "__name__": "student"}
    exec((Path(result.folder) / "student.py").read_text(), space)
    model = space["load"]()
    sizes: list[torch.Size] = []
    model.backbone.body.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape))
    with torch.no_grad():
        model([torch.rand(3, 800, 800)])
    assert sizes == [torch.Size([1, 3, 64, 64])]  # resized to the bench's 128, and halved
    plan = prepare(read_method("msrlr"), P2).plan
    assert sorted(plan.student.state_dict()) == sorted(model.state_dict())


def test_a_teacher_that_learned_nothing_stops_the_run_when_its_phase_ends(tiny: Tiny) -> None:
    with pytest.raises(InvariantError, match=r"teacher: AP50 .* no better than chance"):
        tiny("msrlr", bench=P2)


@pytest.mark.parametrize(
    ("method", "path", "schedule"),
    [("maskd", "terms.same.schedule", {"stop": 0.7})],
)
def test_methods_with_modules_that_learn_from_the_teacher_run(
    method: str, path: str, schedule: dict[str, float], tiny: Tiny, any_teacher: None
) -> None:
    with pytest.raises(SpecError, match="the schedule is 0 at each of the 3 steps"):
        tiny(method, steps=3)
    result = tiny(method, steps=3, overrides={path: schedule})
    assert result.status == "finished"
    assert not [note for note in result.notes if note.startswith("not seen alive")]
    assert all(value != 0 for step in reported(result) for value in step["raw"].values())


def test_lengths_in_steps_are_held_to_a_part_of_a_short_run(tiny: Tiny, any_teacher: None) -> None:
    """ICD distils from step 1000 on, in a short run after a tenth."""
    result = tiny("icd", steps=3)
    assert result.status == "finished"
    assert [step["raw"]["kd/distill"] != 0 for step in reported(result)][-1]


def test_a_teacher_without_weights_needs_a_phase_that_trains_it() -> None:
    with pytest.raises(SpecError, match="the teacher has neither weights: nor a recipe"):
        prepare(read_method("fitnet"), P2)
