"""From an elementwise loss to one number, with every axis and divisor named.

Most disagreements between published implementations are reductions, so nothing here is implicit: axes are aligned by name, the
divisor is a product of stated parts, and an empty group gives exactly 0 with a finite gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """A tensor with named axes."""

    tensor: Tensor
    axes: Axes


def align(factor: Named, axes: Axes) -> Tensor:
    """``factor`` permuted and padded with size-1 axes so that it multiplies a tensor with ``axes`` by name.

    Args:
        factor: Its axes must be a subset of ``axes``; the axis ``one`` has size 1 and stands for ``c``.
        axes: Axes of the tensor to multiply.

    Raises:
        ValueError: For an axis that the tensor does not have.
    """
    names = tuple("c" if a == "one" and "c" in axes else a for a in factor.axes)
    tensor = factor.tensor
    for position in reversed([i for i, a in enumerate(names) if a == "one"]):
        tensor = tensor.squeeze(position)
    names = tuple(a for a in names if a != "one")
    if missing := [a for a in names if a not in axes]:
        raise ValueError(f"axes {missing} are not among {axes}")
    tensor = tensor.permute([names.index(a) for a in axes if a in names])
    return tensor[tuple(slice(None) if a in names else None for a in axes)]


def weigh(element: Named, factors: Sequence[Named], rows: Sequence[Named]) -> tuple[Tensor, Tensor | None]:
    """The element times its factors, zero outside the selected rows; and the selection itself.

    Returns:
        The weighted tensor, and the boolean selection (size-1 axes where it does not vary), None when everything is selected.
        Values outside the selection give no gradient, even where they are not finite.
    """
    value = element.tensor
    for factor in factors:
        value = value * align(factor, element.axes).to(value.dtype)
    if not rows:
        return value, None
    selected = align(rows[0], element.axes) > 0
    for more in rows[1:]:
        selected = selected & (align(more, element.axes) > 0)
    return torch.where(selected, value, value.new_zeros(())), selected


def total(value: Tensor, axes: Axes, *, summed: Axes | None, root: Axes, keep_images: bool) -> Tensor:
    """Sum over ``summed`` (None: all axes), mean over the rest; one number, or one per image.

    Args:
        value: Weighted elementwise loss.
        axes: Its axes.
        summed: Axes that are summed; the others are averaged.
        root: Axes summed first, before a square root (its gradient is 0 where the sum is 0).
        keep_images: Keep axis ``b``.
    """
    if root:
        value = safe_root(value.sum([axes.index(a) for a in root]))
        axes = tuple(a for a in axes if a not in root)
    kept = ("b",) if keep_images else ()
    averaged = [] if summed is None else [a for a in axes if a not in summed and a not in kept]
    for names, reduce in (
        ([a for a in axes if a not in averaged and a not in kept], torch.sum),
        (averaged, torch.mean),
    ):
        if names:
            value = reduce(value, dim=[axes.index(a) for a in names], keepdim=True)
    return value.reshape(-1) if keep_images else value.reshape(())


def safe_root(value: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, torch.ones_like(value)).sqrt(), torch.zeros_like(value))


def quotient(numerator: Tensor, divisor: Tensor | float, floor: float | None) -> Tensor:
    """``numerator / max(floor, divisor)``; exactly 0, with a finite gradient, where the guarded divisor is 0."""
    if not isinstance(divisor, Tensor):
        guarded = divisor if floor is None else max(divisor, floor)
        return numerator / guarded if guarded else numerator * 0
    if floor is not None:
        divisor = divisor.clamp(min=floor)
    empty = divisor == 0
    return torch.where(
        empty, torch.zeros_like(numerator), numerator / torch.where(empty, torch.ones_like(divisor), divisor)
    )


def mean_over_ranks(value: Tensor) -> Tensor:
    """A data-dependent divisor averaged over processes, so that the mean of the ranks' gradients has the global divisor."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
