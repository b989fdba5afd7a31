"""How many entries of a whole value are selected."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.kinds import AnyValue, Scalar
from kdflow.operation import op


@op("stats.count", no_grad=True)
def count(values: AnyValue, per_image: Annotated[int, Field(ge=0)] = 0) -> Scalar:
    """Number of entries above 0 over all axes and all levels or layers, as float32.

    Args:
        values: A tensor or a stack of tensors, such as ``student.assign.positive``.
        per_image: Every image, the first axis, counts at least this many (GFL's number of positives has 1).
    """
    parts = [values] if isinstance(values, torch.Tensor) else list(values)
    if not per_image:
        return torch.stack([(part > 0).sum() for part in parts]).sum().float()
    images = torch.stack([(part > 0).flatten(1).sum(1) for part in parts]).sum(0)
    return images.clamp(min=per_image).sum().float()
