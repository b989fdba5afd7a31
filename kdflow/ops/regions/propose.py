"""The best boxes of dense predictions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional.box_forms import clip_to_images
from kdflow.functional.precision import single
from kdflow.kinds import BOXES, LABELS, SCORES, Dense, DenseValues, Sizes
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def _infer(boxes: Dense, image_sizes: Sizes, k: int = 100, **_: Any) -> dict[str, Any]:
    return {
        "boxes": [boxes[0].new_zeros((k, 4)) for _ in image_sizes],
        "scores": [boxes[0].new_zeros(k) for _ in image_sizes],
        "places": [boxes[0].new_zeros(k, dtype=torch.long) for _ in image_sizes],
    }


@op(
    "regions.propose",
    gives={"boxes": BOXES, "scores": SCORES, "places": LABELS},
    defaults={"image_sizes": "image_sizes"},
    no_grad=True,
    infer=_infer,
)
def propose(
    boxes: Dense,
    scores: DenseValues,
    image_sizes: Sizes,
    labels: DenseValues | None = None,
    k: Positive = 100,
    nms_iou: Fraction = 0.7,
    pre_nms: Positive = 1000,
    per: Literal["image", "level"] = "image",
    suppress: Literal["image", "level"] = "image",
    min_side: Annotated[float, Field(ge=0)] = 0.0,
) -> dict[str, Any]:
    """Boxes of the places with the largest scores, best first; there may be none.

    Outputs per image: ``boxes`` (n, 4), ``scores`` (n,), and ``places`` (n,), the number of the place that each box comes
    from, counted over all levels in their order.

    The ``pre_nms`` largest scores, clipped to the image, without boxes of a side of ``min_side`` pixels or less,
    non-maximum suppression, then the best ``k``. What the scores say is the method's choice: how sure a model is gives
    proposals, how far two models are apart gives the instances of GID (arXiv 2103.02340).

    Args:
        boxes: Decoded boxes per level (B, R, 4), xyxy pixels of the padded input.
        scores: Per level (B, R).
        image_sizes: (height, width) inside the padding.
        labels: Per level (B, R) classes; boxes of unlike classes do not suppress each other. None: all do.
        k: Boxes kept per image.
        nms_iou: Boxes that overlap a better one by more are dropped.
        pre_nms: Places considered.
        per: Whether ``pre_nms`` counts in all levels together or in every level by itself.
        suppress: Whether a better box drops those of all levels or of its own level only.
        min_side: Boxes must be wider and higher than this, pixels.
    """
    kept = []
    for image in range(len(image_sizes)):
        chosen = [level[image] for level in scores]
        order = _largest(chosen, pre_nms, per)
        near = clip_to_images(
            single(torch.cat([level[image] for level in boxes])[order])[None], image_sizes[image : image + 1]
        )
        kinds = _groups(chosen, [level[image] for level in labels or ()], suppress == "level")[order]
        best = single(torch.cat(chosen)[order])
        found = _suppressed(near[0], best, kinds, k, nms_iou, min_side)
        kept.append((near[0][found], best[found], order[found]))
    return {key: [image[i] for image in kept] for i, key in enumerate(("boxes", "scores", "places"))}


def _groups(scores: list[Tensor], labels: list[Tensor], by_level: bool) -> Tensor:
    """(R,) of all levels: boxes of different numbers do not suppress each other."""
    level = torch.cat([torch.full_like(s, i if by_level else 0, dtype=torch.long) for i, s in enumerate(scores)])
    return level if not labels else level + len(scores) * torch.cat(labels).long()


def _largest(scores: list[Tensor], count: int, per: str) -> Tensor:
    """Places of the largest scores, by number over all levels."""
    if per == "image":
        joined = torch.cat(scores)
        return joined.topk(min(count, len(joined))).indices
    parts, start = [], 0
    for level in scores:
        parts.append(level.topk(min(count, len(level))).indices + start)
        start += len(level)
    return torch.cat(parts)


def _suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, k: int, nms_iou: float, min_side: float) -> Tensor:
    """Which boxes of one image are kept, best first."""
    from torchvision.ops import batched_nms  # takes a second to import, which listing ops need not wait for

    large = (boxes[:, 2:] - boxes[:, :2] > min_side).all(1).nonzero().squeeze(1)
    return large[batched_nms(boxes[large], scores[large], groups[large], nms_iou)[:k]]
