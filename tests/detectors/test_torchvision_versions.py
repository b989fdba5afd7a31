"""torchvision's second versions and its MobileNet detectors, built from options: the same parameters, and the same steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FasterRCNN

from kdflow.detectors.backbones import BackboneSpec, build_backbone
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, Detector
from tests.detectors.library import assert_exact, assert_same_detections, make_batch
from tests.detectors.staging import run_stages

CLASSES = ("disc", "square", "star")
V2 = {"neck_norm": "batch", "rpn_convs": 2, "box_convs": 4}
THREE_LEVELS = ((32, 64, 128, 256, 512),) * 3
NONE: dict[str, Any] = {"weights": None, "weights_backbone": None}


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "library", "options"),
    [
        ("faster-rcnn", detection.fasterrcnn_resnet50_fpn_v2, V2),
        ("retinanet", detection.retinanet_resnet50_fpn_v2, {"head_norm": "group", "p6_from": "c5", "box_loss": "giou"}),
        (
            "faster-rcnn",
            detection.fasterrcnn_mobilenet_v3_large_fpn,
            {"backbone": "mobilenet_v3_large", "anchor_sizes": THREE_LEVELS},
        ),
    ],
    ids=["faster-rcnn v2", "retinanet v2", "faster-rcnn mobilenet"],
)
def test_the_parameters_are_those_of_the_librarys_own_builder(name: str, library: Any, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        theirs = shapes(library(num_classes=len(CLASSES) + (name == "faster-rcnn"), **NONE))
    assert shapes(DETECTORS.get(name).build(CLASSES, **options).model) == theirs


def tiny(**options: Any) -> Detector:
    torch.manual_seed(0)
    family = DETECTORS.get("faster-rcnn")
    return family.build(CLASSES, **{**family.tiny, **options})


MOBILE = {"backbone": "mobilenet_v3_small", "anchor_sizes": ((8, 16), (24, 32), (48, 64))}


@pytest.mark.parametrize("options", [V2, MOBILE], ids=["v2", "mobilenet"])
def test_a_step_and_detections_are_the_librarys(options: dict[str, Any]) -> None:
    assert_exact(tiny(**options), make_batch(), offset=1)
    assert_same_detections(tiny(**options), make_batch(), offset=1)


def test_the_head_of_convolutions_offers_its_layer() -> None:
    detector = tiny(**V2)
    values = run_stages(detector, make_batch())
    assert "roi.fc2" not in detector.ports
    assert torch.equal(values["roi.fc1"].relu(), values["roi.embedding"])
    assert detector.ports["roi.fc1"].channels == (values["roi.fc1"].shape[1],)


def test_strides_of_a_mobilenet_are_those_of_its_maps() -> None:
    detector = tiny(**MOBILE)
    assert detector.ports["neck"].strides == (32, 32, 64)
    values = run_stages(detector, make_batch())
    assert [tuple(level.shape[-2:]) for level in values["neck"]] == [(3, 3), (3, 3), (2, 2)]


@pytest.mark.parametrize(("trainable", "frozen"), [(0, 13), (3, 4), (5, 0)])
def test_first_blocks_of_a_mobilenet_are_frozen(trainable: int, frozen: int) -> None:
    backbone = build_backbone(BackboneSpec("mobilenet_v3_small", trainable=trainable))[0].build()
    still = [not any(p.requires_grad for p in block.parameters()) for block in backbone.body.values()]
    assert sum(still) == frozen
    assert still == sorted(still, reverse=True)


def test_a_mobilenet_has_no_pyramid_from_p3_on() -> None:
    with pytest.raises(UsageError, match=r"no pyramid from P3 on\. Next: timm:"):
        DETECTORS.get("retinanet").build(CLASSES, backbone="mobilenet_v3_large")
    assert isinstance(tiny(**MOBILE).model, FasterRCNN)
