"""Structural similarity of two maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.functional.windows import gaussian, local_mean, mirror
from kdflow.kinds import MAP, Map
from kdflow.operation import op

Positive = Annotated[float, Field(gt=0)]


@op("loss.ssim", gives=MAP, zero_at_equality=True)
def ssim(
    student: Map,
    teacher: Map,
    window: Annotated[int, Field(ge=1)] = 11,
    sigma: Positive = 1.5,
    k1: Positive = 0.01,
    k2: Positive = 0.03,
    range: Positive = 1.0,
    border: Literal["mirror", "cut"] = "mirror",
) -> Map:
    """``(1 - SSIM) / 2`` in 0..1, of every channel and place, in float32.

    Local means, variances and covariances are weighted by a Gaussian window. Sources: Wang et al., TIP 2004, in its form with
    all exponents 1; SSIM-KD (arXiv 2211.13133), kornia ``ssim_loss`` (whose 1e-12 on the denominator is part of it).

    Args:
        student: (B, C, H, W) maps.
        teacher: Maps of the same shape.
        window: Odd side of the window, cells.
        sigma: Deviation of the Gaussian, cells.
        k1: Steadies the means: ``(k1 * range)^2`` is added.
        k2: Steadies the variances, likewise.
        range: Largest difference that values can have: 1 behind ``transform.min_max``.
        border: ``mirror`` keeps the size of the map (a map that is no larger than half the window has its border repeated);
            ``cut`` leaves out places whose window leaves the map.
    """
    same_shape(student, teacher)
    if window % 2 == 0:
        raise UsageError(f"window: {window} has no middle; take an odd side")
    ours, theirs = single(student), single(teacher)
    if border == "mirror":
        ours, theirs = mirror(ours, window // 2), mirror(theirs, window // 2)
    elif min(ours.shape[-2:]) < window:
        size = "x".join(map(str, ours.shape[-2:]))
        raise UsageError(f"border: cut leaves nothing of a map of {size} with window: {window}; take border: mirror")
    weights = gaussian(window, sigma, ours)
    mean, target = local_mean(ours, weights), local_mean(theirs, weights)
    spread = local_mean(ours.square(), weights) - mean.square()
    target_spread = local_mean(theirs.square(), weights) - target.square()
    shared = local_mean(ours * theirs, weights) - mean * target
    first, second = (k1 * range) ** 2, (k2 * range) ** 2
    above = (2 * mean * target + first) * (2 * shared + second)
    below = (mean.square() + target.square() + first) * (spread + target_spread + second) + 1e-12
    return ((1 - above / below) / 2).clamp(0, 1)
