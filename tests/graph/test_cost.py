"""Operations of a student's predictions, counted without running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.graph.cost import prediction_flops
from kdflow.graph.passes.infer import Flops
from kdflow.graph.predict import evaluating
from kdflow.ports import DETECTORS, Detector

SMALL: dict[str, Any] = {"backbone": "timm:test_resnet", "neck": 16}


def built(name: str, **options: Any) -> Detector:
    torch.manual_seed(0)
    family = DETECTORS.get(name)
    return family.build(classes=("a", "b"), **{**family.tiny, **options})


def counted(detector: Detector) -> int:
    """Of a real pass over one image."""
    with Flops() as counter, evaluating(detector.model), torch.no_grad():
        detector.predict(torch.rand(1, 3, 64, 64), [(64, 64)])
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("name", "options"), [("yolox", {}), ("rt-detr", {})])
def test_what_is_counted_is_what_a_real_pass_takes(name: str, options: dict[str, Any]) -> None:
    detector = built(name, **options)
    assert prediction_flops(detector, (64, 64)) == counted(detector)


def test_a_box_head_counts_on_as_many_proposals_as_there_may_be() -> None:
    detector, more = (built("faster-rcnn", **SMALL, rpn_post_nms=(20, count)) for count in (10, 20))
    whole = prediction_flops(detector, (64, 64))
    assert counted(detector) <= whole < prediction_flops(more, (64, 64))
