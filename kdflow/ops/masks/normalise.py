"""Masks of equal total."""

from __future__ import annotations

from typing import Literal

from kdflow.functional.precision import single
from kdflow.kinds import Mask
from kdflow.operation import op


@op("mask.normalise", no_grad=True)
def normalise(
    mask: Mask, by: Literal["sum", "count", "mean", "max"] = "sum", scope: Literal["image", "batch"] = "image"
) -> Mask:
    """The mask divided by one number per image, or one for the batch: (B, 1, H, W). What is 0 everywhere stays 0.

    Args:
        mask: Weights, not negative.
        by: ``sum`` (then the entries sum to 1), ``count`` of the entries that are not 0, ``mean``, or ``max``.
        scope: What the number is taken over.
    """
    values = single(mask)
    axes = (1, 2, 3) if scope == "image" else (0, 1, 2, 3)
    number = {
        "sum": lambda: values.sum(axes, keepdim=True),
        "count": lambda: (values != 0).to(values.dtype).sum(axes, keepdim=True),
        "mean": lambda: values.mean(axes, keepdim=True),
        "max": lambda: values.amax(axes, keepdim=True),
    }[by]()
    return values / number.where(number > 0, 1.0)
