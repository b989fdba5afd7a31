from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from kdflow.data.transforms import Geometry, Sample, as_boxes, clean, flip, resize


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> Sample:
    """A black image whose box is white."""
    left, top, right, bottom = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    boxes = as_boxes(torch.tensor([box]), (height, width))
    return Sample(tv_tensors.Image(image), boxes, torch.tensor([4]), 1, (height, width))


def bright_extent(image: torch.Tensor) -> list[int]:
    ys, xs = torch.nonzero(image[0] >= 128, as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def test_flip_moves_pixels_and_boxes_alike():
    flipped = flip(painted(20, 30, (3, 4, 10, 16)))
    assert flipped.boxes.tolist() == [[20, 4, 27, 16]]
    assert bright_extent(flipped.image) == [20, 4, 27, 16]


@pytest.mark.parametrize("size", [(40, 60), (10, 15), (30, 30), (20, 90)])
def test_resize_scales_each_axis_of_boxes_by_its_own_ratio(size: tuple[int, int]):
    resized = resize(painted(20, 30, (4, 6, 20, 16)), size)
    height, width = size
    expected = torch.tensor([4 * width / 30, 6 * height / 20, 20 * width / 30, 16 * height / 20])
    assert resized.image.shape == (3, height, width)
    torch.testing.assert_close(resized.boxes.as_subclass(torch.Tensor)[0], expected)
    assert max(abs(a - b) for a, b in zip(bright_extent(resized.image), expected.tolist())) <= 0.5


def test_resized_pixels_are_torchvisions_own():
    image = torch.randint(0, 256, (3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = Sample(tv_tensors.Image(image), as_boxes(torch.empty(0, 4), (33, 47)), torch.empty(0), 1, (33, 47))
    expected = v2.Resize(20, max_size=400, antialias=True)(image)
    assert torch.equal(resize(sample, Geometry(20, 400).target(33, 47)).image, expected)


@pytest.mark.parametrize(
    ("geometry", "disk", "target"),
    [
        (Geometry(800, 1333), (480, 640), (800, 1066)),
        (Geometry(800, 1333), (640, 480), (1066, 800)),
        (Geometry(800, 1333), (300, 900), (444, 1333)),  # the longer side is capped
        (Geometry(100, 100), (50, 50), (100, 100)),
        (Geometry(100, 100), (1, 500), (1, 100)),
        (Geometry(96, 50, fixed=True), (480, 640), (96, 96)),
    ],
)
def test_target_size_keeps_the_aspect_unless_fixed(geometry: Geometry, disk: tuple[int, int], target: tuple[int, int]):
    assert geometry.target(*disk) == target


def test_clean_cuts_at_the_border_and_drops_slivers_with_their_labels():
    boxes = torch.tensor([[-5.0, 2, 10, 12], [3, 3, 3.5, 9], [28, 5, 40, 9], [31, 2, 40, 9], [4, 4, 9, 9]])
    sample = painted(20, 30, (0, 0, 1, 1))
    sample = Sample(sample.image, as_boxes(boxes, (20, 30)), torch.arange(5), 1, (20, 30))
    cleaned = clean(sample)
    assert cleaned.labels.tolist() == [0, 2, 4]
    assert cleaned.boxes.tolist() == [[0, 2, 10, 12], [28, 5, 30, 9], [4, 4, 9, 9]]
