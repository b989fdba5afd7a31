"""Objects as bells, on the grid of every level."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.box_weights import cut_to_cells, gaussians
from kdflow.functional.masks import level_of_boxes
from kdflow.kinds import Boxes, Masks, Pyramid, Strides
from kdflow.operation import op


@op("mask.gaussian", defaults={"boxes": "targets.boxes"}, no_grad=True)
def gaussian(
    like: Pyramid,
    boxes: Boxes,
    assign: Literal["by_area", "every"] = "by_area",
    spread: Annotated[float, Field(gt=0)] = 2.0,
    base: Annotated[float, Field(gt=0)] = 56.0,
    strides: Strides = (),
) -> Masks:
    """A bell over each box, the larger value where boxes overlap, 0 outside: (B, 1, H, W) per level.

    A box covers the cells between its corners cut to integers; one without extent gives a single 1.
    Source: TARD (arXiv 2006.13108), as ``anchor_head.py`` of ggjy/DeFeat.pytorch builds it.

    Args:
        like: Maps whose grids are used.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        assign: ``by_area`` paints a box only at its level ``floor(log2(sqrt(w*h) / base))``, ``every`` at all levels.
        spread: Width: twice the variance over the squared half box.
        base: Side of boxes that belong to the finest level, pixels (``by_area``).
        strides: Filled in by the compiler.
    """
    if len(strides) != len(like):
        raise UsageError(f"mask.gaussian needs the stride of each of the {len(like)} levels, got {list(strides)}")
    masks = []
    for index, (level, stride) in enumerate(zip(like, strides, strict=True)):
        size = (level.shape[-2], level.shape[-1])
        images = []
        for own in boxes:
            bells = gaussians(cut_to_cells(own, stride, size), size, spread)
            if assign == "by_area":
                bells = bells * (level_of_boxes(own, len(like), base) == index)[:, None, None]
            images.append(torch.cat([bells, bells.new_zeros((1, *size))]).amax(0))
        masks.append(torch.stack(images)[:, None])
    return masks
