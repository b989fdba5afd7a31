"""How well matched predictions lie on their objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional import boxes as bx
from kdflow.functional.box_forms import image_scales, to_corners
from kdflow.functional.precision import single
from kdflow.kinds import LAYER_VALUES, Boxes, Layers, Pairs, Sizes
from kdflow.operation import op


@op(
    "matching.overlap",
    gives={"matched": LAYER_VALUES, "iou": LAYER_VALUES},
    defaults={"targets": "targets.boxes", "image_sizes": "image_sizes"},
    no_grad=True,
)
def overlap(boxes: Layers, pairs: Pairs, targets: Boxes, image_sizes: Sizes) -> dict[str, Any]:
    """``matched``, 1 for queries that have an object, and ``iou`` of their box with it, 0 for others: per layer (B, Q).

    Args:
        boxes: Per layer (B, Q, 4) cxcywh in 0..1, as ``decoder.boxes``.
        pairs: Per layer and image (query index, object index); a single layer holds for all.
        targets: Per image (n, 4) xyxy pixels of the padded input.
        image_sizes: (height, width) inside the padding.
    """
    if len(pairs) not in (1, len(boxes)):
        raise UsageError(f"there are {len(boxes)} layers of boxes and {len(pairs)} layers of pairs")
    scales = image_scales(image_sizes, single(boxes[0]))
    layers = pairs * len(boxes) if len(pairs) == 1 else pairs
    found = [
        [_of_image(*image) for image in zip(layer, own, targets, scales, strict=True)]
        for layer, own in zip(boxes, layers, strict=True)
    ]
    return {name: [torch.stack([image[k] for image in layer]) for layer in found] for k, name in enumerate(("matched", "iou"))}


def _of_image(boxes: Tensor, pairs: tuple[Tensor, Tensor], targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(Q,) and (Q,)."""
    queries, objects = (index.to(boxes.device) for index in pairs)
    own = to_corners(single(boxes))[queries] * scale
    empty = own.new_zeros(len(boxes))
    iou = bx.iou(own, targets.to(own.dtype)[objects])
    return empty.index_fill(0, queries, 1), empty.index_copy(0, queries, iou)
