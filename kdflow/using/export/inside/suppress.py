"""Suppression as one operation of a graph: torchvision's in torch, NonMaxSuppression in ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("kdflow::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    """Rows (picture, 0, candidate) of the candidates that are kept, best first within a picture.

    Args:
        boxes: (N, C, 4) xyxy; boxes of different classes do not overlap.
        scores: (N, 1, C).
        iou: Overlap above which the worse box is dropped.
        score: Kept ones have more.
        limit: Most kept ones of a picture.
    """
    from torchvision.ops import nms

    rows = []
    for picture, (own, marks) in enumerate(zip(boxes, scores[:, 0])):
        able = torch.where(marks > score)[0]
        kept = able[nms(own[able], marks[able], iou)][:limit]
        rows.append(torch.stack([torch.full_like(kept, picture), torch.zeros_like(kept), kept], 1))
    return torch.cat(rows)


@suppress.register_fake
def _suppress_shape(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    del scores, iou, score, limit
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


def _suppress_in_onnx(boxes: Any, scores: Any, iou: float, score: float, limit: int) -> Any:
    from onnxscript import opset18 as op

    kept = op.Constant(value_ints=[limit])
    overlap, least = op.Constant(value_floats=[iou]), op.Constant(value_floats=[score])
    return op.NonMaxSuppression(boxes, scores, kept, overlap, least)


TRANSLATIONS = {torch.ops.kdflow.suppress.default: _suppress_in_onnx}
"""For torch's exporter."""


def kept(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, score: float, limit: int) -> tuple[Tensor, Tensor]:
    """(M,) picture and (M,) candidate of those that are kept, best first within a picture.

    Args:
        boxes: (N, C, 4) xyxy.
        scores: (N, C).
        groups: (N, C) whole numbers from 0 on; only boxes of one group compete.
        iou: Overlap above which the worse box is dropped.
        score: Kept ones have more.
        limit: Most kept ones of a picture.
    """
    apart = boxes + (groups * (boxes.max() - boxes.min() + 1)).to(boxes.dtype)[..., None]
    rows = suppress(apart, scores[:, None], iou, score, limit)
    return rows[:, 0], rows[:, 2]
