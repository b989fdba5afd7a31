"""GFL: class scores that are box qualities, and a distribution over distances for every edge."""

from __future__ import annotations

from typing import Literal

from kdflow.detectors import point_stages as point
from kdflow.detectors.expression import Expression
from kdflow.detectors.gfl_model import GFLHead
from kdflow.detectors.point_parts import LICENCE, TINY, PointOptions, point_detector
from kdflow.options import option
from kdflow.ports import DETECTORS, Detector, DetectorFamily


class GflOptions(PointOptions):
    """Defaults are mmdetection's ``gfl_r50_fpn``."""

    name = "gfl"
    bins: int = option(16, "The last bin n of an edge's distribution, in strides.", gt=0)
    cls_loss: Literal["qfl", "vfl"] = option("qfl", "``qfl``, or ``vfl`` for the varifocal loss.")
    box_weight: Literal["score", "iou"] = option(
        "score", "Weight of a positive in the box losses: its best class ``score``, or its ``iou``."
    )
    beta: float = option(2.0, "Exponent of the quality focal loss.", ge=0)
    alpha: float = option(0.75, "Weight of negatives in the varifocal loss.", ge=0)
    gamma: float = option(2.0, "Exponent of their probability in it.", ge=0)
    loss_weights: tuple[float, float, float] = option(
        (1.0, 2.0, 0.25), "Factors of the class, GIoU and distribution focal losses."
    )


def make(classes: tuple[str, ...], options: GflOptions) -> Detector:
    """GFL (or its varifocal variant) on P3..P7; losses are kdflow's own."""
    head = Expression(GFLHead, *options.head_shape(len(classes)), bins=options.bins)
    weights = dict(zip(("loss_cls", "loss_bbox", "loss_dfl"), options.loss_weights))
    focus = {"beta": options.beta, "alpha": options.alpha, "gamma": options.gamma}
    loss = point.GflLoss(head.build(), weights, options.cls_loss, options.box_weight, **focus)
    outputs = {"distribution": (4 * (options.bins + 1), "distribution")}
    return point_detector(classes, options, head, loss, "gfl_cls", outputs)


DOC = "GFL (or its varifocal variant) on P3..P7; losses are kdflow's own"
DETECTORS.add("gfl", DetectorFamily(make, GflOptions, "dense", "torchvision", LICENCE, DOC, tiny=TINY))
