"""What was seen in earlier steps."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kdflow.kinds import Rows
from kdflow.operation import op


@op("tap.recent", no_grad=True)
class Recent(nn.Module):
    """The rows of earlier steps, (count, C), without gradient; in training this step's rows then take the place of the oldest.

    Places not filled yet hold zeros, which ``loss.contrastive`` leaves out. The memory is part of the checkpoint. With
    several processes each remembers its own rows.

    Args:
        count: Rows that are remembered.
    """

    kept: Tensor
    start: Tensor

    def __init__(self, count: Annotated[int, Field(gt=0)] = 4096) -> None:
        super().__init__()
        self.count = count

    def build(self, features: Rows) -> None:
        """Make room."""
        self.register_buffer("kept", torch.zeros(self.count, features.shape[1]))
        self.register_buffer("start", torch.zeros((), dtype=torch.long))

    def forward(self, features: Rows) -> Rows:
        """(count, C) from before this step.

        Args:
            features: (N, C) rows to remember.
        """
        before = self.kept.clone()
        if self.training:
            newest = features.detach()[-self.count :].to(self.kept.dtype)
            places = (self.start + torch.arange(len(newest), device=self.kept.device)) % self.count
            self.kept.index_copy_(0, places, newest)
            self.start.add_(len(newest)).remainder_(self.count)
        return before
