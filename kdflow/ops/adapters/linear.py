"""A linear layer on the last axis."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from kdflow.kinds import AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op
from kdflow.ops.adapters._layers import Init, initialise, width


@op("adapter.linear", gives=kind_of("features"))
class LinearAdapter(nn.Module):
    """Linear layer on the channels of rows, cells or tokens, whose channels come last. Trained, not exported.

    The layer is named ``linear``. Maps take ``adapter.conv`` with ``kernel: 1`` instead.

    Args:
        channels: Output channels; none takes those of ``like``, or keeps the input's.
        bias: Whether the layer has a bias.
        init: As in ``adapter.conv``.
    """

    linear: nn.Linear

    def __init__(
        self, channels: Annotated[int, Field(gt=0)] | None = None, bias: bool = True, init: Init = "default"
    ) -> None:
        super().__init__()
        self.channels, self.bias, self.init = channels, bias, init

    def build(self, features: AnyTensor, like: AnyTensor | None = None) -> None:
        """Size the layer from the last axes of ``features`` and ``like``."""
        self.linear = nn.Linear(features.shape[-1], width(self.channels, features, like, dim=-1), bias=self.bias)
        initialise(self.linear, self.init)

    def forward(self, features: AnyTensor, like: AnyTensor | None = None) -> AnyTensor:
        """(..., C_in) -> (..., C_out).

        Args:
            features: Rows, cells or tokens.
            like: Only its last axis is read, when the layer is built.
        """
        return self.linear(features)
