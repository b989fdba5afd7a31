"""RoIAlign with a shared gradient is the library's, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor

from kdflow.functional import region_align


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def regions(count: int, side: float) -> Tensor:
    """Rows of boxes in two images, some beyond the border, one without area."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=draw) * side - 8
    ends = corners + torch.rand(count, 2, generator=draw) * side
    ends[0] = corners[0]
    image = torch.arange(count).remainder(2).to(corners.dtype)
    return torch.cat([image[:, None], corners, ends], dim=1)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("channels", [1, 7, 64], ids=lambda c: f"{c}-channels")
@pytest.mark.parametrize(("sampling", "aligned"), [(2, False), (2, True), (0, True)])
def test_value_and_gradient_are_the_librarys(
    monkeypatch: pytest.MonkeyPatch, channels: int, sampling: int, aligned: bool
) -> None:
    monkeypatch.setattr(region_align, "WORTH_SHARING", 1)
    rois, maps = regions(40, 96.0), torch.randn(2, channels, 24, 20)
    found = []
    for align in (region_align.roi_align, torchvision.ops.roi_align):
        own = maps.clone().requires_grad_()
        blocks = align(own, rois, 7, 0.25, sampling, aligned)
        blocks.backward(torch.linspace(-1, 1, blocks.numel()).view_as(blocks))
        found.append((blocks.detach(), own.grad, type(blocks.grad_fn).__name__))
    ours, theirs = found
    assert ours[2] != theirs[2], "the gradient was not shared, so nothing was compared"
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.usefixtures("two_threads")
def test_a_gradient_in_another_layout_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_align, "WORTH_SHARING", 1)
    rois, maps = regions(6, 96.0), torch.randn(2, 8, 24, 20)
    weights = torch.randn(6, 7, 7, 8).permute(0, 3, 1, 2)
    gradients = []
    for align in (region_align.roi_align, torchvision.ops.roi_align):
        own = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        (align(own, rois, 7, 0.25, 2, False) * weights).sum().backward()
        gradients.append(own.grad)
    assert torch.equal(*gradients)


def test_groups_cover_every_channel_once() -> None:
    for channels in (1, 5, 8, 256):
        covered = [c for group in region_align._groups(channels, 8) for c in range(group.start, group.stop)]
        assert covered == list(range(channels))
