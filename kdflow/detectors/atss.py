"""ATSS: class scores, box deltas and a centerness, with one square anchor per cell."""

from __future__ import annotations

from kdflow.detectors import point_stages as point
from kdflow.detectors.expression import Expression
from kdflow.detectors.gfl_model import ATSSHead
from kdflow.detectors.point_parts import LICENCE, TINY, PointOptions, point_detector
from kdflow.options import option
from kdflow.ports import DETECTORS, Detector, DetectorFamily


class AtssOptions(PointOptions):
    """Defaults are mmdetection's ``atss_r50_fpn``."""

    name = "atss"
    loss_weights: tuple[float, float, float] = option(
        (1.0, 2.0, 1.0), "Factors of the focal, GIoU and centerness losses."
    )


def make(classes: tuple[str, ...], options: AtssOptions) -> Detector:
    """ATSS on P3..P7, one anchor per cell; losses are kdflow's own."""
    head = Expression(ATSSHead, *options.head_shape(len(classes)))
    weights = dict(zip(("loss_cls", "loss_bbox", "loss_centerness"), options.loss_weights))
    loss = point.AtssLoss(head.build(), weights)
    outputs = {"deltas": (4, "deltas"), "centerness": (0, "")}
    return point_detector(classes, options, head, loss, "atss_cls", outputs)


DOC = "ATSS on P3..P7, one anchor per cell; losses are kdflow's own"
DETECTORS.add("atss", DetectorFamily(make, AtssOptions, "dense", "torchvision", LICENCE, DOC, tiny=TINY))
