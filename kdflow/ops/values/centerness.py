"""How central a place is in its object."""

from __future__ import annotations

from kdflow.functional import boxes as bx
from kdflow.kinds import Dense, DenseValues, Priors
from kdflow.operation import op


@op("values.centerness", no_grad=True)
def centerness(priors: Priors, boxes: Dense) -> DenseValues:
    """FCOS centerness ``sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b))`` of each place, 0 outside its box.

    Source: Tian et al., ICCV 2019, equation 3.

    Args:
        priors: Per level (R, 4) xyxy pixels; their centres are the places.
        boxes: Per level (B, R, 4) matched boxes in the same pixels.
    """
    return [bx.centerness(bx.centers(p), b) for p, b in zip(priors, boxes, strict=True)]
