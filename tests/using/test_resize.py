"""The resize inside an ONNX file is torchvision's, to the bit."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from kdflow.using.export.resize import resize

SIZES = [
    ((96, 96), (64, 64)),
    ((75, 148), (96, 96)),
    ((64, 64), (64, 64)),
    ((100, 37), (160, 60)),
    ((240, 333), (80, 111)),
    ((48, 64), (8, 8)),
]


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_pictures_are_resized_to_the_bit_as_the_evaluation_does(size: tuple[int, int], target: tuple[int, int]) -> None:
    pictures = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = transforms.resize(pictures, list(target), antialias=True)
    assert torch.equal(resize(pictures, *target).to(torch.uint8), wanted)
