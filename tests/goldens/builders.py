"""Detectors made from the parameters of a golden case, for methods that call stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from kdflow.graph.given import given_detector
from kdflow.ports import Call, Detector, Port, Stage
from tests.goldens.heads import dense_head

__all__ = ["anchor_assigner", "dense_head"]


class AssignAnchors(nn.Module):
    """RetinaNet's matching of anchors to boxes, by torchvision's matcher."""

    def __init__(self, anchors: list[Tensor]) -> None:
        super().__init__()
        self.anchors = anchors

    def forward(self, boxes: list[Tensor]) -> dict[str, Any]:
        everything, sizes = torch.cat(self.anchors), [len(a) for a in self.anchors]
        matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        positive = [
            matcher(box_iou(own, everything)) >= 0 if len(own) else everything.new_zeros(len(everything)) > 0
            for own in boxes
        ]
        return {"positive": list(torch.stack(positive).split(sizes, dim=1))}

    def infer(self, boxes: list[Tensor]) -> dict[str, Any]:
        return {"positive": [torch.zeros((len(boxes), len(a)), dtype=torch.bool) for a in self.anchors]}


def anchor_assigner(arrays: dict[str, np.ndarray], dtype: torch.dtype, owner: str) -> Detector:
    """A detector that only assigns the anchors of the case to boxes."""
    levels = sum(key.startswith("anchors.") for key in arrays)
    run = AssignAnchors([torch.as_tensor(arrays[f"anchors.{i}"]) for i in range(levels)])
    return given_detector(
        "anchors",
        "dense",
        (),
        stages={"assign": Stage(run, {"boxes": "targets.boxes"}, {"positive": Port("assign.positive")})},
        calls={"assign": Call({"boxes": "assign:boxes"}, {"positive": "assign.positive"})},
    )


class DecodeDistribution(nn.Module):
    """GFL's boxes around the cells, by the mean of each edge's distribution."""

    def __init__(self, grids: list[tuple[int, int]], strides: list[int]) -> None:
        super().__init__()
        self.grids, self.strides = grids, strides

    def forward(self, distribution: list[Tensor]) -> dict[str, Any]:
        return {"boxes": [self.decode(*level) for level in zip(distribution, self.grids, self.strides)]}

    def decode(self, values: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
        edges = values.reshape(*values.shape[:2], 4, -1).softmax(-1)
        sides = (edges * torch.arange(edges.shape[-1], dtype=values.dtype)).sum(-1) * stride
        y, x = torch.meshgrid(torch.arange(grid[0]) * stride, torch.arange(grid[1]) * stride, indexing="ij")
        center = torch.stack([x, y], dim=-1).reshape(-1, 2)
        return torch.cat([center - sides[..., :2], center + sides[..., 2:]], dim=-1)


def distribution_decoder(arrays: dict[str, np.ndarray], dtype: torch.dtype, owner: str) -> Detector:
    """A detector that only decodes the edge distributions of the case."""
    strides = [int(s) for s in arrays["strides"]]
    grids = [arrays[f"{owner}.box_logits.{i}"].shape[-2:] for i in range(len(strides))]
    run = DecodeDistribution(grids, strides)
    boxes = Port("head.boxes", strides=tuple(strides), form="xyxy")
    return given_detector(
        "distributions",
        "dense",
        [Port("head.distribution")],
        stages={"decode": Stage(run, {"distribution": "head.distribution"}, {"boxes": boxes})},
    )
