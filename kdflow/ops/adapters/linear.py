"""A linear layer on the channels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdflow.functional.axes import dim_of
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like as kind_of
from kdflow.operation import op
from kdflow.ops.adapters._layers import Init, initialise, width


@op("adapter.linear", gives=kind_of("features"))
class LinearAdapter(nn.Module):
    """Linear layer on the channels of rows, blocks, cells, tokens or maps; then norm, then activation.

    Trained, not exported. Layers are named ``linear`` and ``bn``. On a map it is a 1x1 convolution.

    Args:
        channels: Output channels; none takes those of ``like``, or keeps the input's.
        bias: Whether the layer has a bias.
        init: As in ``adapter.conv``.
        norm: ``batch`` adds a BatchNorm over all rows; a single row passes it with the running statistics.
        activation: ``relu`` rectifies.
        axes: Filled in by the compiler.
    """

    linear: nn.Linear
    bn: nn.BatchNorm1d | None

    def __init__(
        self,
        channels: Annotated[int, Field(gt=0)] | None = None,
        bias: bool = True,
        init: Init = "default",
        norm: Literal["none", "batch"] = "none",
        activation: Literal["none", "relu"] = "none",
        axes: Axes = (),
    ) -> None:
        super().__init__()
        self.dim = dim_of("c", axes)
        self.channels, self.bias, self.init = channels, bias, init
        self.norm, self.activation = norm, activation

    def build(self, features: AnyTensor, like: AnyTensor | None = None) -> None:
        """Size the layer from the channels of ``features`` and ``like``."""
        outputs = width(self.channels, features, like, dim=self.dim)
        self.linear = nn.Linear(features.shape[self.dim], outputs, bias=self.bias)
        initialise(self.linear, self.init)
        self.bn = nn.BatchNorm1d(outputs) if self.norm == "batch" else None

    def forward(self, features: AnyTensor, like: AnyTensor | None = None) -> AnyTensor:
        """C_in channels -> C_out channels; all other axes stay.

        Args:
            features: Any tensor with an axis c.
            like: Only its channels are counted, when the layer is built.
        """
        result = self.linear(features.movedim(self.dim, -1))
        if self.bn is not None:
            result = _normalise(self.bn, result.flatten(0, -2)).view_as(result)
        result = result.movedim(-1, self.dim)
        return functional.relu(result) if self.activation == "relu" else result


def _normalise(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    if len(rows) > 1 or not norm.training:
        return norm(rows)
    return functional.batch_norm(
        rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )
