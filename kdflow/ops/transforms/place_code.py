"""Where every cell lies, as a vector."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.positions import inside_images, place_code
from kdflow.kinds import Canvas, Cells, Pyramid, Sizes
from kdflow.operation import op


@op("transform.place_code", defaults={"image_sizes": "image_sizes"}, no_grad=True)
def place_codes(
    like: Pyramid,
    image_sizes: Sizes,
    channels: Annotated[int, Field(gt=0, multiple_of=4)] = 256,
    canvas: Canvas = (0, 0),
) -> Cells:
    """DETR's sine code of all cells of all levels joined, normalised by the unpadded image: (B, sum H*W, channels).

    Args:
        like: Maps whose grids are used.
        image_sizes: (height, width) inside the padding.
        channels: Numbers per cell.
        canvas: Filled in by the compiler.
    """
    levels = []
    for level in like:
        size = (level.shape[-2], level.shape[-1])
        images = [place_code(size, reach, channels, level) for reach in inside_images(size, image_sizes, canvas)]
        levels.append(torch.stack(images).flatten(1, 2))
    return torch.cat(levels, dim=1)
