"""Boxes in another form."""

from __future__ import annotations

from typing import Literal

from kdflow.errors import UsageError
from kdflow.functional.box_forms import image_scales, to_center, to_corners
from kdflow.functional.precision import single
from kdflow.kinds import Sizes, Tokens
from kdflow.operation import op


@op("transform.boxes", defaults={"image_sizes": "image_sizes"}, example={"features": "b q c"})
def boxes(
    features: Tokens,
    image_sizes: Sizes | None = None,
    to: Literal["xyxy", "cxcywh", "pixels"] = "xyxy",
    clip: bool = False,
) -> Tokens:
    """Boxes cxcywh in 0..1 as corners in 0..1 (``xyxy``), as corners in pixels (``pixels``), or in their own form.

    Args:
        features: (B, N, 4) cxcywh, normalised by the unpadded image, as ``decoder.boxes`` are.
        image_sizes: (height, width) inside the padding; needed for pixels.
        to: Form of the result.
        clip: Move the corners inside the image first.
    """
    corners = to_corners(single(features))
    if clip:
        corners = corners.clamp(0, 1)
    if to == "cxcywh":
        return to_center(corners)
    if to == "xyxy":
        return corners
    if image_sizes is None:
        raise UsageError("transform.boxes needs the sizes of the images for pixels; write image_sizes: image_sizes")
    return corners * image_scales(image_sizes, corners)[:, None]
