"""KL divergence of the places of each channel."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from kdflow.functional.checks import same_shape
from kdflow.functional.divergences import kl_divergence
from kdflow.kinds import Map, of_axes
from kdflow.operation import op


@op("loss.spatial_kl", gives=of_axes(("b", "c"), None), zero_at_equality=True)
def spatial_kl(student: Map, teacher: Map, temperature: Annotated[float, Field(gt=0)] = 1.0) -> Any:
    """``T^2 KL(teacher || student)`` of softmax over the places of every channel, which are used up: (B, C).

    Adding a number to a whole channel changes nothing. Source: CWD (arXiv 2011.13256), equation 3; mmrazor ``cwd.py``.

    Args:
        student: (B, C, H, W) maps: features, or class logits of a head.
        teacher: Maps of the same shape.
        temperature: T.
    """
    same_shape(student, teacher)
    return kl_divergence(student.flatten(2), teacher.flatten(2), -1, temperature) * temperature**2
