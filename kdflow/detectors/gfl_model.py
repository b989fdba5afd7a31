"""GFL and ATSS as plain modules on torch and torchvision alone: an exported student carries this file as it is.

Both predict from one square prior per cell, centred on the cell's corner ``(x * stride, y * stride)``.
Sources: Li et al., NeurIPS 2020 (GFL); Zhang et al., CVPR 2020 (ATSS); mmdetection ``gfl_head.py`` and ``atss_head.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image


class Scale(nn.Module):
    """One learnable factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        """``values`` times the factor."""
        return values * self.scale


def tower(width: int, blocks: int, groups: int) -> nn.Sequential:
    """Blocks of 3x3 convolution without bias, GroupNorm and ReLU."""
    return nn.Sequential(
        *(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(width, width, 3, padding=1, bias=False),
                    gn=nn.GroupNorm(groups, width),
                    act=nn.ReLU(),
                )
            )
            for _ in range(blocks)
        )
    )


def cells(values: Tensor, size: int) -> Tensor:
    """(B, size, H, W) -> (B, H * W, size)."""
    return values.flatten(2).transpose(1, 2).reshape(values.shape[0], -1, size)


def square_priors(maps: list[Tensor], strides: tuple[int, ...], side: float) -> list[Tensor]:
    """Per level (H * W, 4) xyxy: squares of ``side`` strides around ``(x * stride, y * stride)``."""
    found = []
    for m, stride in zip(maps, strides):
        height, width = m.shape[-2:]
        y = torch.arange(height, dtype=torch.float32, device=m.device) * stride
        x = torch.arange(width, dtype=torch.float32, device=m.device) * stride
        centers = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)
        half = stride * side / 2
        found.append(torch.cat([centers - half, centers + half], dim=1))
    return found


class PointHead(nn.Module, ABC):
    """What both heads share: towers, strides, initial weights.

    Args:
        width: Channels of maps and towers.
        classes: Number of classes; one sigmoid each, no background.
        strides: Pixels per cell, per level.
        blocks: Blocks per tower.
        groups: Groups of the towers' GroupNorm.
        side: Side of a prior in strides.
    """

    def __init__(
        self, width: int, classes: int, strides: tuple[int, ...], blocks: int, groups: int, side: float
    ) -> None:
        super().__init__()
        self.classes = classes
        self.strides = tuple(strides)
        self.side = side
        self.cls_convs = tower(width, blocks, groups)
        self.reg_convs = tower(width, blocks, groups)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def initialize(self, classifier: nn.Module) -> None:
        """Small normal weights; the classifier starts at a probability of 0.01."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(classifier.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> dict[str, list[Tensor]]:
        """Outputs of :meth:`predict` per level."""
        found: dict[str, list[Tensor]] = {}
        for level, features in enumerate(maps):
            for name, value in self.predict(self.cls_convs(features), self.reg_convs(features), level).items():
                found.setdefault(name, []).append(value)
        return found

    @abstractmethod
    def predict(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """Outputs of one level from the features of both towers."""

    @abstractmethod
    def decode(self, outputs: dict[str, Tensor], priors: Tensor, level: int) -> Tensor:
        """(B, H*W, 4) xyxy boxes of one level, not clipped."""

    @abstractmethod
    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """(B, H*W, K) scores of one level."""


class GFLHead(PointHead):
    """Class scores that are box qualities, and a distribution over distances for every edge.

    Args:
        bins: n of the paper; an edge has n + 1 bins, 0 to n strides away.
        shape: The arguments of :class:`PointHead`.
    """

    outputs = ("logits", "distribution")

    def __init__(self, *shape: Any, bins: int = 16) -> None:
        super().__init__(*shape)
        width = shape[0]
        self.bins = bins
        self.gfl_cls = nn.Conv2d(width, self.classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(width, 4 * (bins + 1), 3, padding=1)
        self.initialize(self.gfl_cls)

    def predict(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """``logits`` (B, H*W, K) and ``distribution`` (B, H*W, 4(n+1)), edges left, top, right, bottom."""
        distribution = self.scales[level](self.gfl_reg(boxes))
        return {
            "logits": cells(self.gfl_cls(classes), self.classes),
            "distribution": cells(distribution, 4 * (self.bins + 1)),
        }

    def distances(self, distribution: Tensor) -> Tensor:
        """Expected distance of every edge in strides, (..., 4(n+1)) -> (..., 4)."""
        chances = distribution.unflatten(-1, (4, self.bins + 1)).softmax(-1)
        # A product and a sum, since a matrix product would round to half precision under autocast.
        return (chances * torch.arange(self.bins + 1, dtype=chances.dtype, device=chances.device)).sum(-1)

    def decode(self, outputs: dict[str, Tensor], priors: Tensor, level: int) -> Tensor:
        """The prior's centre plus the expected distances."""
        distances = self.distances(outputs["distribution"]) * self.strides[level]
        centers = (priors[:, :2] + priors[:, 2:]) / 2
        return torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Sigmoid of the logits."""
        return outputs["logits"].sigmoid()


class ATSSHead(PointHead):
    """Class scores, box deltas and a centerness."""

    outputs = ("logits", "deltas", "centerness")

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        width = shape[0]
        self.atss_cls = nn.Conv2d(width, self.classes, 3, padding=1)
        self.atss_reg = nn.Conv2d(width, 4, 3, padding=1)
        self.atss_centerness = nn.Conv2d(width, 1, 3, padding=1)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0), bbox_xform_clip=math.log(1000 / 16))
        self.initialize(self.atss_cls)

    def predict(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """``logits`` (B, H*W, K), ``deltas`` (B, H*W, 4) and ``centerness`` (B, H*W)."""
        return {
            "logits": cells(self.atss_cls(classes), self.classes),
            "deltas": cells(self.scales[level](self.atss_reg(boxes)), 4),
            "centerness": cells(self.atss_centerness(boxes), 1).squeeze(-1),
        }

    def decode(self, outputs: dict[str, Tensor], priors: Tensor, level: int) -> Tensor:
        """Priors moved by the deltas, whose units are 0.1 and 0.2."""
        del level
        deltas = outputs["deltas"]
        return self.coder.decode_single(deltas.reshape(-1, 4), priors.repeat(deltas.shape[0], 1)).view_as(deltas)

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Class probability times centerness."""
        return outputs["logits"].sigmoid() * outputs["centerness"].sigmoid()[..., None]


class PointDetector(nn.Module):
    """A backbone with its pyramid, a head, and inference as in torchvision's detectors.

    Called with a list of (3, H, W) images in 0..1 in evaluation mode, it returns ``boxes``, ``scores`` and ``labels`` (0-based)
    per image.

    Args:
        backbone: Gives pyramid levels by name.
        head: A :class:`PointHead`.
        score_thresh: Least score of a detection.
        nms_thresh: IoU above which a worse detection of the same class is dropped.
        detections_per_img: Most detections per image.
        topk_candidates: Most candidates per level before suppression.
        transform: Settings of torchvision's ``GeneralizedRCNNTransform``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: PointHead,
        *,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
        **transform: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.transform = GeneralizedRCNNTransform(**transform)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates

    def forward(self, images: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        """Detections; RuntimeError in training mode, whose losses are not part of this module."""
        if self.training:
            raise RuntimeError("this module detects in evaluation mode only: call .eval() first")
        originals = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, _ = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        priors = square_priors(maps, self.head.strides, self.head.side)
        found = self.postprocess_detections(self.head(maps), priors, batch.image_sizes)
        return self.transform.postprocess(found, batch.image_sizes, originals)

    def postprocess_detections(
        self, outputs: dict[str, list[Tensor]], priors: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Per level the best (place, class) pairs above the score threshold, then suppression per class over all levels."""
        levels = []
        for level, places in enumerate(priors):
            own = {name: values[level] for name, values in outputs.items()}
            levels.append((self.head.scores(own), self.head.decode(own, places, level)))
        return [
            self._suppress([(scores[i], boxes[i]) for scores, boxes in levels], size)
            for i, size in enumerate(image_sizes)
        ]

    def _suppress(self, levels: list[tuple[Tensor, Tensor]], size: tuple[int, int]) -> dict[str, Tensor]:
        boxes, scores, labels = [], [], []
        for own, places in levels:
            flat = own.flatten()
            kept = torch.where(flat > self.score_thresh)[0]
            best, order = flat[kept].topk(min(len(kept), self.topk_candidates))
            kept = kept[order]
            scores.append(best)
            labels.append(kept % own.shape[1])
            boxes.append(clip_boxes_to_image(places[torch.div(kept, own.shape[1], rounding_mode="floor")], size))
        every, best, classes = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        kept = batched_nms(every, best, classes, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": every[kept], "scores": best[kept], "labels": classes[kept]}
