"""RoIAlign whose gradient is computed by all threads of a CPU; the library's uses one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WORTH_SHARING = 2**17
"""Elements of a gradient (some milliseconds of work) from which it is divided among threads."""
PARTS = 4
"""Groups of channels per thread: what a group is added to stays in the cache, and threads end together."""


class Grid(NamedTuple):
    """How a region is sampled, in the order of the library's arguments."""

    scale: float
    rows: int
    columns: int
    sampling: int
    aligned: bool


def roi_align(features: Tensor, rois: Tensor, bins: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """``torchvision.ops.roi_align``, bit for bit, forward and backward, on every device.

    A channel's gradient depends on no other channel, so groups of channels go to threads and nothing is added in another order.

    Args:
        features: (B, C, H, W).
        rois: (N, 5) image number, then xyxy pixels; no gradient.
        bins: Cells per side of a block.
        scale: Cells per pixel.
        sampling: Sampling points per side of a cell; 0 adapts to the box.
        aligned: Half-pixel-correct sampling.

    Returns:
        (N, C, bins, bins). Gradient flows to ``features``.
    """
    shared = features.device.type == "cpu" and features.requires_grad and torch.get_num_threads() > 1
    if not shared or len(rois) * features.shape[1] * bins**2 < WORTH_SHARING:
        return _library(features, rois, bins, scale, sampling, aligned)
    blocks: Tensor = _Shared.apply(features, rois.detach(), Grid(scale, bins, bins, sampling, aligned))
    return blocks


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, rois: Tensor, grid: Grid) -> Tensor:
        context.save_for_backward(rois)
        context.shape, context.grid = features.shape, grid
        return _library(features, rois, grid.rows, grid.scale, grid.sampling, grid.aligned)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rois,) = context.saved_tensors
        images, channels, *sides = context.shape
        threads, grid = torch.get_num_threads(), context.grid
        whole = gradient.new_empty(context.shape)

        def fill(group: slice) -> None:
            part = gradient[:, group]
            whole[:, group] = torch.ops.torchvision._roi_align_backward(
                part, rois, grid.scale, grid.rows, grid.columns, images, part.shape[1], *sides, grid.sampling, grid.aligned
            )

        list(_pool(threads).map(fill, _groups(channels, threads * PARTS)))
        return whole, None, None


def _groups(channels: int, count: int) -> Iterator[slice]:
    """All channels in at most ``count`` runs of nearly equal length."""
    count = min(count, channels)
    for i in range(count):
        yield slice(i * channels // count, (i + 1) * channels // count)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="roi-align")


def _library(*arguments: Any) -> Tensor:
    """``torchvision.ops.roi_align``; its package takes a second to import, which listing ops need not wait for."""
    from torchvision.ops import roi_align

    return roi_align(*arguments)
