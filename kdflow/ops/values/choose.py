"""One of two values, place by place."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.choose", gives=like("values"))
def choose(values: AnyTensor, other: AnyTensor, where: AnyTensor) -> AnyTensor:
    """``values`` where ``where`` is above 0, ``other`` elsewhere; gradient flows to what is chosen.

    Args:
        values: Numbers, such as the teacher's boxes.
        other: The same shape, such as the student's boxes.
        where: The same shape, or only the leading axes: one choice for all four coordinates of a box.
    """
    same_shape(values, other)
    if values.shape[: where.dim()] != where.shape:
        shapes = f"the choice is {tuple(where.shape)}, values are {tuple(values.shape)}"
        raise UsageError(f"{shapes}; values.choose needs equal shapes, or one choice per entry of the leading axes")
    chosen = (where > 0).reshape(*where.shape, *[1] * (values.dim() - where.dim()))
    return single(values).where(chosen, single(other))
