"""A few linear layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn
from torch.nn import functional

from kdflow.kinds import AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("adapter.mlp", gives=kind_of("features"), example={"channels": (6, 4)})
class MlpAdapter(nn.Module):
    """Linear layers with ReLU between them, on the channels of rows, cells or tokens. Trained, not exported.

    Layers are named ``layers.<k>``.

    Args:
        channels: Outputs of each layer.
    """

    layers: nn.ModuleList

    def __init__(self, channels: tuple[Annotated[int, Field(gt=0)], ...] = (256, 256, 256)) -> None:
        super().__init__()
        self.channels = channels

    def build(self, features: AnyTensor) -> None:
        """Size the layers."""
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((features.shape[-1], *self.channels)))

    def forward(self, features: AnyTensor) -> AnyTensor:
        """(..., C_in) -> (..., channels[-1]).

        Args:
            features: Rows, cells or tokens.
        """
        for number, layer in enumerate(self.layers):
            features = layer(features if number == 0 else functional.relu(features))
        return features
