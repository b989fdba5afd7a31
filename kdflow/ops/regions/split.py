"""Rows of all images as one table per image."""

from __future__ import annotations

from typing import Any

from kdflow.errors import UsageError
from kdflow.kinds import AnyTensor, Boxes
from kdflow.operation import like, op


@op("regions.split", gives=like("rows", stack="images"), defaults={"boxes": "targets.boxes"}, example={"rows": "n c"})
def split(rows: AnyTensor, boxes: Boxes) -> Any:
    """(N, ...) -> per image (n, ...), the inverse of ``regions.join``: a term then reduces every image by itself.

    A term's ``reduce: {root: [n, c], levels: sum}`` is the sum over images of a norm, with ``levels: mean`` their mean; an image
    without boxes is 0. Gradient flows.

    Args:
        rows: Values of the boxes of all images, images in order; of a stack of levels choose one.
        boxes: Per image (n, 4), only counted.
    """
    counts = [len(own) for own in boxes]
    if sum(counts) != len(rows):
        raise UsageError(f"regions.split has {len(rows)} rows and {sum(counts)} boxes; give the boxes that the rows speak of")
    return list(rows.split(counts))
