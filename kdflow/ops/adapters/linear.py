"""A linear layer on the last axis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdflow.kinds import AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op
from kdflow.ops.adapters._layers import Init, initialise, width


@op("adapter.linear", gives=kind_of("features"))
class LinearAdapter(nn.Module):
    """Linear layer on the channels of rows, cells or tokens, whose channels come last; then norm, then activation.

    Trained, not exported. Layers are named ``linear`` and ``bn``. Maps take ``adapter.conv`` with ``kernel: 1`` instead.

    Args:
        channels: Output channels; none takes those of ``like``, or keeps the input's.
        bias: Whether the layer has a bias.
        init: As in ``adapter.conv``.
        norm: ``batch`` adds a BatchNorm over all rows; a single row passes it with the running statistics.
        activation: ``relu`` rectifies.
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
    ) -> None:
        super().__init__()
        self.channels, self.bias, self.init = channels, bias, init
        self.norm, self.activation = norm, activation

    def build(self, features: AnyTensor, like: AnyTensor | None = None) -> None:
        """Size the layer from the last axes of ``features`` and ``like``."""
        outputs = width(self.channels, features, like, dim=-1)
        self.linear = nn.Linear(features.shape[-1], outputs, bias=self.bias)
        initialise(self.linear, self.init)
        self.bn = nn.BatchNorm1d(outputs) if self.norm == "batch" else None

    def forward(self, features: AnyTensor, like: AnyTensor | None = None) -> AnyTensor:
        """(..., C_in) -> (..., C_out).

        Args:
            features: Rows, cells or tokens.
            like: Only its last axis is read, when the layer is built.
        """
        result = self.linear(features)
        if self.bn is not None:
            result = _normalise(self.bn, result.flatten(0, -2)).view_as(result)
        return functional.relu(result) if self.activation == "relu" else result


def _normalise(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    if len(rows) > 1 or not norm.training:
        return norm(rows)
    return functional.batch_norm(
        rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )
