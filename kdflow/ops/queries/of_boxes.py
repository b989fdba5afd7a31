"""Queries that stand at given boxes."""

from __future__ import annotations

from typing import Any

from kdflow.functional.box_forms import to_center
from kdflow.kinds import QUERIES, TOKEN_VALUES, Boxes, Sizes
from kdflow.operation import op


@op(
    "queries.of_boxes",
    gives={"queries": QUERIES, "real": TOKEN_VALUES},
    defaults={"boxes": "targets.boxes", "image_sizes": "image_sizes"},
    no_grad=True,
)
def of_boxes(boxes: Boxes, image_sizes: Sizes) -> dict[str, Any]:
    """One query per box, the same for all decoders: ``references`` (B, K, 4), cxcywh relative to the unpadded image.

    K is the largest number of boxes of an image, at least 1. Images with fewer are filled up; ``real`` (B, K) is 0 for what
    fills, and the queries carry it, so that decoders let no query attend there. Position and content follow from the box by
    each decoder's own rule: only those whose queries follow from boxes take such queries (DAB-DETR, two-stage Deformable DETR).

    Args:
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        image_sizes: (height, width) of each image inside the canvas.
    """
    most = max(1, *(len(own) for own in boxes))
    references = boxes[0].new_tensor([0.5, 0.5, 0.1, 0.1]).repeat(len(boxes), most, 1)
    real = references.new_zeros(len(boxes), most)
    for image, (own, (height, width)) in enumerate(zip(boxes, image_sizes, strict=True)):
        references[image, : len(own)] = to_center(own / own.new_tensor([width, height, width, height]))
        real[image, : len(own)] = 1
    return {"queries": {"references": references, "real": real}, "real": real}
