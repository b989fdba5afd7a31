"""Dense places as boxes of each image."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.kinds import BOXES, ROW_VALUES, DenseValues, Priors
from kdflow.operation import op

PLAUSIBLE = 4


def _infer(priors: Priors, keep: DenseValues, labels: DenseValues) -> dict[str, Any]:
    images = len(keep[0])
    boxes = [priors[0].new_zeros((PLAUSIBLE, 4)) for _ in range(images)]
    return {"boxes": boxes, "labels": labels[0].new_zeros(images * PLAUSIBLE)}


@op("regions.places", gives={"boxes": BOXES, "labels": ROW_VALUES}, no_grad=True, infer=_infer)
def places(priors: Priors, keep: DenseValues, labels: DenseValues) -> dict[str, Any]:
    """The priors where ``keep`` is above 0: ``boxes`` per image and their ``labels`` (N,), levels in order.

    Args:
        priors: Per level (R, 4) xyxy pixels.
        keep: Per level (B, R), such as ``student.assign.positive``.
        labels: Per level (B, R) classes, such as ``student.assign.labels``.
    """
    everything = torch.cat(list(priors))
    chosen, classes = torch.cat(list(keep), dim=1) > 0, torch.cat(list(labels), dim=1)
    return {"boxes": [everything[image] for image in chosen], "labels": classes[chosen]}
