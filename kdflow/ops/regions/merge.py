"""Detections of several models as one list."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.box_forms import clip_to_images
from kdflow.functional.precision import single
from kdflow.kinds import BOXES, LABELS, SCORES, Detections, Sizes
from kdflow.operation import op

PLAUSIBLE = 4


def _infer(detections: list[Detections], image_sizes: Sizes, **_: Any) -> dict[str, Any]:
    like = detections[0][0]["boxes"]
    return {
        "boxes": [like.new_zeros((PLAUSIBLE, 4)) for _ in image_sizes],
        "labels": [like.new_zeros(PLAUSIBLE, dtype=torch.long) for _ in image_sizes],
        "scores": [like.new_zeros(PLAUSIBLE) for _ in image_sizes],
    }


@op(
    "regions.merge",
    gives={"boxes": BOXES, "labels": LABELS, "scores": SCORES},
    defaults={"image_sizes": "image_sizes"},
    no_grad=True,
    infer=_infer,
)
def merge(
    detections: list[Detections],
    image_sizes: Sizes,
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.2,
    bonus: tuple[float, ...] = (),
    least: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> dict[str, Any]:
    """``boxes`` (n, 4), ``labels`` and ``scores`` (n,) per image, of all models together, best first.

    Boxes are clipped to the image and empty ones left out; non-maximum suppression, class by class, goes by score plus the
    model's bonus, and the first ``floor(all boxes / models)`` of what is left are kept, with their own scores. Source:
    Teach-DETR (arXiv 2211.11953).

    Args:
        detections: Of every model, such as ``[large.detections, sharp.detections]``.
        image_sizes: (height, width) inside the padding.
        nms_iou: Boxes of a class that overlap a better one by more are dropped.
        bonus: Added to the scores of each model's boxes for the order alone; none adds 0.
        least: Boxes with a smaller score are left out at first.
    """
    if bonus and len(bonus) != len(detections):
        raise UsageError(f"bonus: {len(bonus)} numbers for the detections of {len(detections)} models; give one for each")
    bonuses = bonus or (0.0,) * len(detections)
    images = [
        _merged([one[image] for one in detections], size, bonuses, nms_iou, least) for image, size in enumerate(image_sizes)
    ]
    return {key: [image[key] for image in images] for key in ("boxes", "labels", "scores")}


def _merged(
    found: list[dict[str, Tensor]], size: tuple[int, int], bonuses: tuple[float, ...], nms_iou: float, least: float
) -> dict[str, Tensor]:
    """Of one image."""
    from torchvision.ops import batched_nms  # takes a second to import, which listing ops need not wait for

    boxes = clip_to_images(single(torch.cat([one["boxes"] for one in found]))[None], [size])[0]
    scores, labels = single(torch.cat([one["scores"] for one in found])), torch.cat([one["labels"] for one in found])
    rank = torch.cat([single(one["scores"]) + bonus for one, bonus in zip(found, bonuses, strict=True)])
    real = ((boxes[:, 2:] > boxes[:, :2]).all(1) & (scores >= least)).nonzero().squeeze(1)
    best = real[batched_nms(boxes[real], rank[real], labels[real], nms_iou)[: len(real) // len(found)]]
    return {"boxes": boxes[best], "labels": labels[best], "scores": scores[best]}
