"""Stages of SSD: VGG16 cut where its pyramid begins, default boxes, and a head without towers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from kdflow.detectors.torchvision_parts import Anchors, background_last, cells


class VggBody(nn.Module):
    """VGG16 up to conv4_3 and fc7."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.features = extractor.features
        self.block = extractor.extra[0]

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: conv4_3 (stride 8) and fc7 (stride 16)."""
        first = self.features(pixels)
        return {"maps": [first, self.block(first)]}


class VggNeck(nn.Module):
    """The rescaled first map and the extra, ever coarser ones."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.scale_weight = extractor.scale_weight
        self.blocks = extractor.extra[1:]

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps``: what the head reads, finest first."""
        first, last = maps
        found = [self.scale_weight.view(1, -1, 1, 1) * functional.normalize(first), last]
        for block in self.blocks:
            found.append(block(found[-1]))
        return {"maps": found}


class DefaultBoxes(Anchors):
    """The library's default boxes."""

    def infer(self, pixels: Tensor, maps: list[Tensor]) -> dict[str, Any]:
        """As many boxes as cells times anchors."""
        return {"anchors": [pixels.new_empty(n, 4) for n in self.counts(maps)]}


class Head(nn.Module):
    """The library's head: one convolution per level and branch, no towers."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.classes = head.classification_head.module_list
        self.boxes = head.regression_head.module_list
        self.columns: int = head.classification_head.num_columns

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``logits`` (B, H*W*A, K+1), background last, and ``deltas`` (B, H*W*A, 4) per level."""
        deltas = [cells(layer(m), 4) for layer, m in zip(self.boxes, maps)]
        logits = [cells(layer(m), self.columns) for layer, m in zip(self.classes, maps)]
        return {"logits": [background_last(x) for x in logits], "deltas": deltas}
