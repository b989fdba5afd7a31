"""Pyramids that torchvision does not have, as plain modules: an exported student carries this file as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelP6P7


class P6P7(LastLevelP6P7):
    """Two further levels by stride-2 convolutions on P5, without a ReLU between them (as in mmdetection's ``on_output``)."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The levels and their names with P6 and P7 appended."""
        p6 = self.p6(p[-1])
        return [*p, p6, self.p7(p6)], [*names, "p6", "p7"]


class TimmPyramid(nn.Module):
    """A timm feature extractor under torchvision's pyramid, with the parameter names of ``BackboneWithFPN``."""

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        width: int,
        extra: ExtraFPNBlock,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra, norm_layer)
        self.out_channels = width

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pyramid levels by name."""
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.body(pixels))))


class Levels(nn.Module):
    """The pyramid without its finest levels, which are there for methods and not for the head."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels ``first``, ``first + 1``, ..."""
        return maps[self.first :]


class BranchedPyramid(nn.Module):
    """A backbone with a pyramid whose first levels the head does not read; parameter names of ``BackboneWithFPN``."""

    def __init__(self, pyramid: Any, first: int) -> None:
        super().__init__()
        self.body, self.fpn, self.levels = pyramid.body, pyramid.fpn, Levels(first)
        self.out_channels = pyramid.out_channels

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The levels that the head reads."""
        maps = self.body(pixels)
        named = maps if isinstance(maps, dict) else OrderedDict((str(i), m) for i, m in enumerate(maps))
        read = self.levels(list(self.fpn(named).values()))
        return OrderedDict((str(i), m) for i, m in enumerate(read))
