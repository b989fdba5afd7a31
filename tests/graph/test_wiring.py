"""``wiring:``: a detector that runs on other inputs than its own, in training, prediction and the exported student."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import SpecError, UsageError
from kdflow.experiment.export import export_notes, student_source
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import DETECTORS
from kdflow.spec.resolve import parse_method
from kdflow.student.pictures import Pictures
from tests.toy import make_seeing, toy_batch

HEAD = "kdflow: 1\nmethod: test\n"
TERM = "terms:\n  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
HALF = (
    HEAD
    + TERM
    + "nodes:\n  half: {op: transform.subsample, features: images}\nwiring:\n  student.backbone: {images: half}\n"
)
HALF += "  teacher.backbone: {images: half}\n"


def seeing() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"student": make_seeing(), "teacher": make_seeing()}


def plan_of(text: str, detectors: dict[str, Any] | None = None, canvas: int = 16) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, detectors or seeing(), canvas=(canvas, canvas))


def faults(text: str, detectors: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        plan_of(text, detectors)
    return str(caught.value)


ALONE = HEAD + (
    "teacher: none\nnodes:\n  half: {op: transform.subsample, features: images}\nwiring:\n  student.backbone: {images: half}\n"
)


def test_the_students_own_losses_follow_its_wiring() -> None:
    detectors, data = {"student": seeing()["student"]}, toy_batch(1, 0)
    plan = plan_of(ALONE, detectors)
    plan.eval()
    model = detectors["student"].model
    maps = model.backbone(data.images[..., ::2, ::2])
    logits = [model.head(layer(maps)) for layer in model.neck]
    torch.testing.assert_close(plan(data).raw["det/loss"], sum(x.square().mean() for x in logits) * 2)


def test_prediction_follows_the_wiring_and_leaves_every_mode_as_it_was() -> None:
    detectors, data = {"student": seeing()["student"]}, toy_batch(1, 0)
    plan = plan_of(ALONE, detectors)
    student = plan.predictor()
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    found = student.predict(data.images, data.image_sizes)
    assert all(module.training for module in student.model.modules())
    assert all(torch.equal(before[name], value) for name, value in student.model.state_dict().items())
    plan.eval()
    expected = detectors["student"].predict(data.images[..., ::2, ::2], data.image_sizes)
    whole = detectors["student"].predict(data.images, data.image_sizes)
    assert all(torch.equal(one["scores"], other["scores"]) for one, other in zip(found, expected, strict=True))
    assert found[0]["scores"].shape != whole[0]["scores"].shape


def test_a_method_without_wiring_predicts_by_the_detector_itself() -> None:
    detectors = seeing()
    assert plan_of(HEAD + TERM, detectors).predictor() is detectors["student"]


def test_a_teachers_prediction_may_use_the_methods_own_weights() -> None:
    text = HEAD + (
        "nodes:\n  fused: {op: generator.fuse, high: teacher.neck, low: teacher.neck, share: levels, reduction: 2}\n"
        "wiring:\n  teacher.head: {features: fused.maps}\n"
        "terms:\n"
        "  logits: {loss: loss.squared_error, student: student.head.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    plan, data = plan_of(text), toy_batch(1, 0)
    assert list(plan.ops) == ["fused"]
    found = plan.predictor("teacher").predict(data.images, data.image_sizes)
    expected = plan.detectors["teacher"].predict(data.images, data.image_sizes)  # equal maps fuse to themselves
    torch.testing.assert_close(found[0]["scores"], expected[0]["scores"])
    assert plan.ops.training


def test_a_call_replaces_what_the_wiring_says() -> None:
    text = HEAD + (
        "nodes:\n"
        "  both: {op: generator.fuse, high: teacher.neck, low: teacher.neck, share: levels, reduction: 2}\n"
        "  plain: {call: teacher.head, features: student.neck}\n"
        "wiring:\n  teacher.head: {features: both.maps}\n"
        "terms:\n"
        "  logits: {loss: loss.squared_error, student: plain.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    graph = plan_of(text).graph
    assert graph["teacher:head"].inputs == {"maps": "both.maps"}
    assert graph["plain:head"].inputs == {"maps": "student.neck"}


def test_strides_are_those_of_the_smaller_images() -> None:
    text = HEAD + (
        "nodes:\n  half: {op: transform.subsample, features: images}\n  objects: {op: mask.boxes, like: student.neck}\n"
        "wiring:\n  student.backbone: {images: half}\n  teacher.backbone: {images: half}\n"
        "terms:\n"
        "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, factors: [objects], "
        "reduce: sum_of_means}\n"
    )
    plan = plan_of(text)
    assert plan.graph["student.neck"].value.strides == (4, 8)
    data = toy_batch(1, 0)
    data.boxes[0] = torch.tensor([[0.0, 0.0, 8.0, 16.0]])
    mask = plan.evaluate(data, ["objects"])["objects"][0]
    assert mask[0, 0].tolist() == [[1, 1, 0, 0]] * 4


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        ("student.bakbone: {images: half}", 'toy has no call or stage "student.bakbone".'),
        ("pupil.backbone: {images: half}", 'no detector "pupil" in this run'),
        ("student.backbone: {pictures: half}", 'there is no input "pictures" here'),
        ("student.backbone: {images: halves}", 'no owner, node or batch value "halves"'),
        ("student.head: {maps: student.head.logits}", "the wiring is a circle"),
        ("student.neck: {maps: teacher.backbone}", "needs teacher.backbone for its predictions"),
    ],
)
def test_mistakes_in_the_wiring_are_found_before_anything_runs(wiring: str, message: str) -> None:
    text = HALF.replace("student.backbone: {images: half}", wiring)
    found = faults(text)
    assert message in found
    assert f"test.yaml:{1 + text[: text.index(wiring)].count(chr(10))}:" in found


def test_a_detector_cannot_predict_from_ground_truth() -> None:
    text = (
        HEAD
        + TERM
        + ("nodes:\n  objects: {op: mask.boxes, like: student.neck}\nwiring:\n  student.head: {features: objects}\n")
    )
    narrow = {"student": make_seeing(width=1), "teacher": make_seeing(width=1)}
    assert "predicts from targets.boxes, which it has in training only" in faults(text, narrow)


def fcos(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    options = {"backbone": "timm:test_resnet", "neck": 64, "tower_blocks": 1, "first_level": 2, "head_from": 3}
    return DETECTORS.get("fcos").build(("disc", "star"), **options, score=0.0, min_size=128, max_size=128)


LOW = HEAD + (
    "teacher: none\n"
    "nodes:\n  half: {op: transform.subsample, features: student.normalize.pixels}\n"
    'wiring:\n  student.backbone: {pixels: half}\n  student.head: {features: "student.neck[:-1]"}\n'
)


def test_the_exported_student_is_the_librarys_model_wired_alike() -> None:
    plan = plan_of(LOW, {"student": fcos()}, canvas=128)
    student = plan.predictor()
    assert export_notes(student) == ()
    space: dict[str, Any] = {"__file__": "student.py", "__name__": "student"}
    source = student_source(student, Pictures(128, 128, True, 128))
    assert "import kdflow" not in source
    assert "from kdflow" not in source
    exec(source, space)
    model = space["build"]()
    model.load_state_dict(plan.student.state_dict(), strict=True)
    data = toy_batch(1, 0, side=128)
    with torch.no_grad():
        outside = model.eval()(list(data.images))
    inside = student.predict(data.images, data.image_sizes)
    plain = plan.detectors["student"].predict(data.images, data.image_sizes)
    for one, other in zip(inside, outside, strict=True):
        assert len(one["boxes"])
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))
    assert not torch.equal(inside[0]["scores"], plain[0]["scores"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("transform.subsample, features", "transform.relu, features"), "transform.relu.* has no plain form"),
        (
            ('student.head: {features: "student.neck[:-1]"}', "student.head.priors: {pixels: half}"),
            "is no single module",
        ),
    ],
)
def test_an_export_that_cannot_be_wired_refuses_and_says_why(change: tuple[str, str], reason: str) -> None:
    plan = plan_of(LOW.replace(*change), {"student": fcos()}, canvas=128)
    (note,) = export_notes(plan.predictor())
    space: dict[str, Any] = {"__file__": "student.py", "__name__": "student"}
    exec(student_source(plan.predictor(), Pictures(128, 128, True, 128)), space)
    with pytest.raises(RuntimeError, match=reason) as caught:
        space["build"]()
    assert str(caught.value) in note


def test_a_detector_without_such_a_source_refuses_too() -> None:
    with pytest.raises(UsageError, match="a toy has no source"):
        plan_of(HALF).predictor().source()


def test_nodes_may_be_called_like_methods_of_torch_unless_they_have_weights() -> None:
    plan = plan_of(HALF.replace("half", "type"))
    assert "type_(features = images)" in plan.code
    text = HALF.replace(
        "  half: {op: transform.subsample, features: images}", "  half: {op: adapter.conv, features: images, stride: 2}"
    )
    assert 'torch has a "half" of its own' in faults(text)
