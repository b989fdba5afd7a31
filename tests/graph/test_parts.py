"""Parts of detectors with random weights: built to fit the place that they stand on, seeded, trained, saved, and left behind."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

from kdflow.errors import SpecError
from kdflow.graph.compile import compile_method
from kdflow.graph.facets import needs
from kdflow.graph.outline import outline
from kdflow.graph.plan import Plan
from kdflow.ports import DETECTORS, Batch
from kdflow.spec.resolve import parse_method
from tests.contracts.tiny_detectors import CLASSES, batch_for
from tests.graph.test_plan import HEAD, faults

PART = HEAD + (
    "teacher: none\n"
    "modules:\n  other: {build: {detector: fcos, part: head, tower_blocks: 2}, like: student.neck}\n"
    "nodes:\n  goal: {op: transform.detach, features: other.head.cls_tower}\n"
    "terms:\n"
    "  own: {value: other.losses.classification, at: cnn/head}\n"
    "  alike: {loss: loss.squared_error, student: student.head.cls_tower, teacher: goal, reduce: sum_of_means}\n"
)
ASIDE = "nodes:\n  again: {call: other, features: aside}\n  aside: {op: adapter.conv, features: student.neck}\n"
CALLED = PART.replace("nodes:\n", ASIDE).replace("features: other.head.cls_tower", "features: again.cls_tower")
RCNN = PART.replace("detector: fcos, part: head, tower_blocks: 2", "detector: faster-rcnn, part: roi.head")


@functools.cache
def retinanet() -> Any:
    torch.manual_seed(3)
    family = DETECTORS.get("retinanet")
    return family.build(CLASSES, **{**family.tiny, "neck": 64, "backbone": "timm:test_resnet"})


def plan_of(text: str, seed: int = 0) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, {"student": copy.deepcopy(retinanet())}, canvas=(96, 96), seed=seed)


def words(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        plan_of(text)
    return str(caught.value)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(PART)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_for("retinanet")


def weights(plan: Plan, prefix: str = "ops.other") -> dict[str, torch.Tensor]:
    return {name: p for name, p in plan.named_parameters() if name.startswith(prefix)}


def test_it_is_as_wide_as_its_place_and_keeps_only_what_runs(plan: Plan) -> None:
    found = weights(plan)
    assert {p.shape[0] for name, p in found.items() if name.endswith("towers.classes.layers.0.weight")} <= {64}
    assert sum(p.numel() for p in found.values()) == plan.report.adapters["other"]
    assert not any("backbone" in name or "fpn" in name for name in found)
    blocks = [name for name in found if "towers.classes" in name and name.endswith("0.weight")]
    assert len(blocks) == 2
    assert needs(plan.graph, plan.method) == ("gt", "trainable_adapter")


def test_it_learns_from_its_own_loss_on_the_students_maps(plan: Plan, batch: Batch) -> None:
    raw = plan(batch).raw
    own = torch.autograd.grad(raw["kd/own"], [*weights(plan, "ops.other").values(), *weights(plan, "student.backbone").values()],
        allow_unused=True, retain_graph=True)
    assert any(grad is not None and grad.any() for grad in own[: len(weights(plan))])
    assert any(grad is not None and grad.any() for grad in own[len(weights(plan)) :])
    alike = torch.autograd.grad(raw["kd/alike"], list(weights(plan).values()), allow_unused=True)
    assert all(grad is None for grad in alike)                   # its side of the comparison is detached


def test_its_weights_follow_the_seed_alone_and_survive_the_start(plan: Plan) -> None:
    again, other = plan_of(PART), plan_of(PART, seed=1)
    again.copy_weights()                                         # copies take their detector's weights; this has none
    state, same, unlike = (list(weights(one).values()) for one in (plan, again, other))
    assert all(map(torch.equal, state, same))
    assert not all(map(torch.equal, state, unlike))
    torch.manual_seed(5)
    assert torch.rand(1).equal(_next_number(lambda: plan_of(PART)))


def _next_number(work: Any) -> torch.Tensor:
    torch.manual_seed(5)
    work()
    return torch.rand(1)


def test_it_is_in_checkpoints_and_not_in_the_student(plan: Plan) -> None:
    state = plan.state_dict()
    assert {name.split(".")[1] for name in state if name.startswith("ops.")} == {"other"}
    assert plan.student.state_dict().keys() == retinanet().model.state_dict().keys()
    fresh = plan_of(PART, seed=1)
    fresh.load_state_dict(state)
    assert all(map(torch.equal, weights(plan).values(), weights(fresh).values()))


def test_it_moves_with_the_plan() -> None:
    plan = plan_of(PART).to(torch.float64)
    assert {p.dtype for p in weights(plan).values()} == {torch.float64}


def test_its_part_can_be_called_on_other_maps_with_the_same_weights(batch: Batch) -> None:
    plan = plan_of(CALLED)
    assert set(plan.report.adapters) == {"other", "aside"}
    found = plan.evaluate(batch, ["other.losses.classification", "again.cls_tower"])
    maps = plan.evaluate(batch, ["student.neck"])["student.neck"]
    whole = plan.evaluate({**batch.values(), "aside": maps}, ["again.cls_tower"])
    assert not whole["again.cls_tower"][0].equal(found["again.cls_tower"][0])
    stages = [node.name for node in plan.graph.ordered() if node.stage == "head.towers" and node.owner == "other"]
    assert sorted(stages) == ["again:head.towers", "other:head.towers"]


def test_what_a_call_leaves_alone_runs_once() -> None:
    text = PART.replace("nodes:\n", "nodes:\n  judged: {call: other.criterion, logits: other.head.logits}\n").replace(
        "value: other.losses.classification", "value: judged.classification"
    )
    plan = plan_of(text)
    assert [node.owner for node in plan.graph.ordered() if node.stage == "assign"].count("other") == 1


@pytest.mark.parametrize(("written", "instead", "expected"), [
    ("detector: fcos", "detector: fcoss", 'modules.other.build.detector: no detector "fcoss". Did you mean "fcos"'),
    ("part: head", "part: roi", 'modules.other.build.part: "roi" of fcos is none of its parts. (known: backbone, head)'),
    ("part: head", "part: criterion", '"criterion" of fcos has no weights'),
    ("tower_blocks: 2", "tower_block: 2", 'modules.other.build.tower_block: fcos has no option "tower_block"'),
    ("tower_blocks: 2", "neck: 128", "modules.other.like: there are 64 channels, and fcos is built for 128"),
    ("like: student.neck", "like: 'student.neck[1:4]'", "there are strides 16, 32, 64, and the head of fcos has 8, 16, 32"),
    ("like: student.neck", "like: images", 'a part stands on a port of a detector, such as student.neck, not on "images"'),
    ("like: student.neck", "like: student.head.logits", "what is read of it runs its backbone as well"),
    (", like: student.neck", "", "build: and like: belong together"),
    ("tower_blocks: 2}", "tower_blocks: 2}, kernel: 3", "options of the built detector (kernel) stand inside build:"),
    ("like: student.neck", "like: student.neck, trainable: false", "trainable: is for copies"),
    ("other.head.cls_tower", "other.head.cls_towr", 'other (fcos) has no port "head.cls_towr". Did you mean "head.cls_tower"'),
    ("other.head.cls_tower", "other.backbone.p5", "has no port"),
    ("  goal: {", "  other: {op: transform.detach, features: student.neck}\n  goal: {", "is the name of a detector or node"),
    ("detector: fcos, part: head, tower_blocks: 2", "detector: faster-rcnn, part: roi.head", "has no port"),
])
def test_what_does_not_fit_is_refused_in_words(written: str, instead: str, expected: str) -> None:
    assert written in PART
    found = words(PART.replace(written, instead, 1))
    assert expected in found, found
    assert "Traceback" not in found


def test_a_place_that_the_detector_does_not_have_is_refused() -> None:
    text = RCNN.replace("like: student.neck", "like: student.head.cls_tower")
    assert 'modules.other.like: faster-rcnn has no "head.cls_tower"' in words(text)


def test_reading_what_lies_outside_of_the_part_is_refused() -> None:
    text = RCNN.replace("losses.classification", "losses.loss_objectness").replace("other.head.cls_tower", "other.neck")
    assert '"other" was built for its roi.head, and what is read of it runs its rpn.head as well' in words(text)


def test_a_part_that_nothing_uses_is_refused() -> None:
    text = PART.partition("nodes:")[0] + "terms:\n  det.classification: {weight: 2}\n"
    assert "modules.other: no node uses this module" in words(text)


def test_names_are_checked_without_a_bench() -> None:
    def said(text: str) -> list[str]:
        spec = parse_method(text, "test.yaml")
        document = spec.document
        outline(spec.resolve(), document, {"student": {"dense"}})
        return [str(fault) for fault in document.faults]

    assert said(PART) == []
    assert any("head.cls_towr" in fault for fault in said(PART.replace("cls_tower}", "cls_towr}", 1)))


def test_toys_know_no_parts() -> None:
    assert "has no" in faults(PART.replace("teacher: none\n", ""))
