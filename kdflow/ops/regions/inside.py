"""Places inside an object."""

from __future__ import annotations

import torch

from kdflow.functional import boxes as bx
from kdflow.kinds import Boxes, DenseValues, Priors
from kdflow.operation import op


@op("regions.inside", defaults={"boxes": "targets.boxes"}, no_grad=True)
def inside(priors: Priors, boxes: Boxes) -> DenseValues:
    """1 where the centre of a prior lies inside some box of the image, else 0: (B, R) per level.

    The border of a box is outside. An image without boxes gives zeros.

    Args:
        priors: Per level (R, 4) xyxy pixels.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
    """
    centers, sizes = bx.centers(torch.cat(list(priors))), [len(level) for level in priors]
    shown = [bx.inside(centers, own.to(centers.dtype)).any(1).to(centers.dtype) for own in boxes]
    return list(torch.stack(shown).split(sizes, dim=1))
