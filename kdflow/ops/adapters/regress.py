"""A regressor whose geometry follows from the sizes of the two maps."""

from __future__ import annotations

from torch import nn
from torch.nn import functional

from kdflow.errors import UsageError
from kdflow.kinds import Map
from kdflow.operation import op


@op("adapter.regress")
class Regressor(nn.Module):
    """Convolution to the channels and size of ``like``, then BatchNorm, then ReLU (mdistiller ``ConvReg``).

    A student map twice as high gets a 3x3 convolution of stride 2, one half as high a transposed 4x4 convolution of
    stride 2; otherwise an unpadded kernel of ``1 + difference`` cells brings it down (1x1 for equal maps). Layers are
    named ``conv`` and ``bn``. Trained, not exported.

    Args:
        relu: Rectify at the end, as the source does; signed maps such as FPN outputs cannot be matched with it.
        norm: Normalise with batch statistics before it, as the source does.
    """

    conv: nn.Conv2d | nn.ConvTranspose2d
    bn: nn.BatchNorm2d | None

    def __init__(self, relu: bool = True, norm: bool = True) -> None:
        super().__init__()
        self.relu, self.norm = relu, norm

    def build(self, features: Map, like: Map) -> None:
        """Choose the geometry; raises UsageError for a student map that is smaller, but not by half."""
        inputs, height, width = features.shape[1:]
        outputs, wanted_height, wanted_width = like.shape[1:]
        if height == 2 * wanted_height:
            self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        elif 2 * height == wanted_height:
            self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        elif height >= wanted_height and width >= wanted_width:
            self.conv = nn.Conv2d(inputs, outputs, (1 + height - wanted_height, 1 + width - wanted_width))
        else:
            sizes = f"{height}x{width} to {wanted_height}x{wanted_width}"
            raise UsageError(f"adapter.regress cannot bring {sizes}; put transform.resize before it")
        self.bn = nn.BatchNorm2d(outputs) if self.norm else None

    def forward(self, features: Map, like: Map) -> Map:
        """(B, C_in, H, W) -> (B, C_out, H_like, W_like).

        Args:
            features: Maps to adapt.
            like: Only its shape is read, when the layer is built.
        """
        result = self.conv(features)
        if self.bn is not None:
            result = self.bn(result)
        return functional.relu(result) if self.relu else result
