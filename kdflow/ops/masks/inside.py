"""Which cells show the image and which the padding."""

from __future__ import annotations

from kdflow.functional.positions import inside_images
from kdflow.kinds import Canvas, Masks, Pyramid, Sizes
from kdflow.operation import op


@op("mask.inside", defaults={"image_sizes": "image_sizes"}, no_grad=True)
def inside(like: Pyramid, image_sizes: Sizes, canvas: Canvas = (0, 0)) -> Masks:
    """1 where a cell begins inside the unpadded image and 0 on padding: (B, 1, H, W) per level.

    Args:
        like: Maps whose grids are used.
        image_sizes: (height, width) inside the padding.
        canvas: Filled in by the compiler.
    """
    masks = []
    for level in like:
        size = (level.shape[-2], level.shape[-1])
        shown = level.new_zeros((len(image_sizes), 1, *size))
        for image, (rows, columns) in enumerate(inside_images(size, image_sizes, canvas)):
            shown[image, :, :rows, :columns] = 1
        masks.append(shown)
    return masks
