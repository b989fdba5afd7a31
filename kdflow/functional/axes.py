"""Named axes of plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdflow.errors import UsageError


def dims_of(names: Sequence[str], axes: Sequence[str]) -> tuple[int, ...]:
    """Positions of the named axes.

    Args:
        names: Axes to look up; ``c`` also finds the single channel of a mask.
        axes: Axes of the tensor; empty means that only the last one is known, and that it is ``c``.

    Raises:
        UsageError: For an axis that the tensor does not have.
    """
    if not axes:
        if tuple(names) != ("c",):
            wanted = ", ".join(names)
            raise UsageError(f"the axes of this value are not known, so only c (its last) can be named, not {wanted}")
        return (-1,)
    axes = ["c" if axis == "one" else axis for axis in axes]
    if missing := [name for name in names if name not in axes]:
        raise UsageError(f"this value has the axes {', '.join(axes)}, not {', '.join(missing)}")
    return tuple(axes.index(name) for name in names)


def dim_of(name: str, axes: Sequence[str]) -> int:
    """Position of one named axis; see :func:`dims_of`."""
    return dims_of((name,), axes)[0]


def last(name: str, tensor: Tensor, axes: Sequence[str]) -> Tensor:
    """The tensor with the named axis moved to the end."""
    return tensor.movedim(dim_of(name, axes), -1)
