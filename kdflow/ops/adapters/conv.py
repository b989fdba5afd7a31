"""A convolution that brings maps of one model to the channels of another."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from torch.nn import functional

from kdflow.kinds import Map
from kdflow.operation import op
from kdflow.ops.adapters._layers import Init, initialise, width

Positive = Annotated[int, Field(gt=0)]


@op("adapter.conv")
class ConvAdapter(nn.Module):
    """Convolution, then norm, then activation; one per level unless ``share: levels``. Trained, not exported.

    Layers are named ``conv`` and ``bn``. The map keeps its size at ``stride: 1`` (odd kernels); ``stride: 2`` halves it, and
    doubles it where ``transposed``. ``adapter.regress`` finds the geometry by itself.

    Args:
        kernel: Side of the kernel; padded by half of it.
        stride: Step of the kernel.
        transposed: A transposed convolution, padded so that the map becomes exactly ``stride`` times as high and wide.
        groups: Channel groups.
        channels: Output channels; none takes those of ``like``, or keeps the input's.
        bias: Whether the convolution has a bias.
        init: ``default`` (torch's), ``small_normal`` (deviation 1e-4, cut at two deviations; DeFeat), ``zero``,
            ``identity`` or ``kaiming``.
        norm: ``batch`` adds a BatchNorm with torch's defaults.
        activation: ``relu`` rectifies; signed maps such as FPN outputs cannot be matched with it.
        when: ``widths_differ`` builds no layer, and passes the map on as it is, where the channels agree already and ``stride``
            is 1.
    """

    conv: nn.Conv2d | nn.ConvTranspose2d | None
    bn: nn.BatchNorm2d | None

    def __init__(
        self,
        kernel: Positive = 1,
        stride: Positive = 1,
        transposed: bool = False,
        groups: Positive = 1,
        channels: Positive | None = None,
        bias: bool = True,
        init: Init = "default",
        norm: Literal["none", "batch"] = "none",
        activation: Literal["none", "relu"] = "none",
        when: Literal["always", "widths_differ"] = "always",
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.transposed, self.groups = kernel, stride, transposed, groups
        self.channels, self.bias, self.init = channels, bias, init
        self.norm, self.activation, self.when = norm, activation, when

    def build(self, features: Map, like: Map | None = None) -> None:
        """Size the layers from the channels of ``features`` and ``like``."""
        inputs, outputs = features.shape[1], width(self.channels, features, like, dim=1)
        if self.when == "widths_differ" and inputs == outputs and self.stride == 1:
            self.conv = self.bn = None
            return
        self.conv = self._layer(inputs, outputs)
        initialise(self.conv, self.init)
        self.bn = nn.BatchNorm2d(outputs) if self.norm == "batch" else None

    def _layer(self, inputs: int, outputs: int) -> nn.Conv2d | nn.ConvTranspose2d:
        shape, groups = (inputs, outputs, self.kernel, self.stride), self.groups
        if not self.transposed:
            return nn.Conv2d(*shape, self.kernel // 2, groups=groups, bias=self.bias)
        surplus = self.kernel - self.stride  # cells by which an unpadded result is too large
        padding = max((surplus + 1) // 2, 0)
        return nn.ConvTranspose2d(*shape, padding, 2 * padding - surplus, groups, self.bias)

    def forward(self, features: Map, like: Map | None = None) -> Map:
        """(B, C_in, H, W) -> (B, C_out, H', W').

        Args:
            features: Maps to adapt.
            like: Only its channels are read, when the layer is built.
        """
        if self.conv is None:
            return features
        result = self.conv(features)
        if self.bn is not None:
            result = self.bn(result)
        return functional.relu(result) if self.activation == "relu" else result
