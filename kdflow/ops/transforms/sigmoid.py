"""Scores of independent yes/no choices."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.sigmoid", gives=like("logits"))
def sigmoid(logits: AnyTensor, temperature: Annotated[float, Field(gt=0)] = 1.0) -> AnyTensor:
    """``1 / (1 + exp(-logits / T))``.

    Args:
        logits: Any tensor.
        temperature: T.
    """
    return torch.sigmoid(logits / temperature)
