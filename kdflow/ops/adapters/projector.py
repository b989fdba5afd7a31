"""A small head in front of a contrastive loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn
from torch.nn import functional

from kdflow.kinds import Rows
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


@op("adapter.projector", example={"channels": 4})
class Projector(nn.Module):
    """Linear, linear, BatchNorm, ReLU, linear, all of one width. Trained, not exported.

    Layers are named ``enter``, ``fc1``, ``bn`` and ``fc2``. A single row cannot be normalised and passes BatchNorm with
    its running statistics. Source: DETRDistill's release, ``moco_cl_head.py``.

    Args:
        channels: Width of all layers.
    """

    enter: nn.Linear

    def __init__(self, channels: Positive = 512) -> None:
        super().__init__()
        self.channels = channels
        self.fc1 = nn.Linear(channels, channels)
        self.bn = nn.BatchNorm1d(channels)
        self.fc2 = nn.Linear(channels, channels)

    def build(self, features: Rows) -> None:
        """Size the first layer."""
        self.enter = nn.Linear(features.shape[1], self.channels)

    def forward(self, features: Rows) -> Rows:
        """(N, C) -> (N, channels).

        Args:
            features: Rows to project.
        """
        hidden = self.fc1(self.enter(features))
        norm = self.bn
        batch = norm.training and len(hidden) > 1
        hidden = (
            norm(hidden)
            if batch or not norm.training
            else functional.batch_norm(
                hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        )
        return self.fc2(functional.relu(hidden))
