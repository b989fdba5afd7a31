"""Arithmetic between values."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.formula import checked, compute, names_in
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.formula", gives=like("a"), example={"formula": "2 * a + b * c - d"})
def formula(
    a: AnyTensor,
    formula: Annotated[str, AfterValidator(checked)],
    b: AnyTensor | None = None,
    c: AnyTensor | None = None,
    d: AnyTensor | None = None,
    detach: bool = False,
) -> AnyTensor:
    """What a formula such as ``abs(a - b) ** 2`` gives, entry by entry, in float32. Gradient flows to all values, unless told.

    The formula has ``+ - * / **``, brackets, numbers, and ``abs``, ``sqrt``, ``exp``, ``log``, ``min(x, y)``, ``max(x, y)``;
    ``x / 0`` is 0. Booleans count as 0 and 1.

    Args:
        a: Numbers that give the result its shape.
        formula: Arithmetic of a, b, c and d.
        b: The same shape as ``a``, its leading axes (one number per row for all columns), or a single number. An axis of
            size 1, such as that of a mask, holds for all entries of ``a`` there.
        c: Likewise.
        d: Likewise.
        detach: Let no gradient pass.
    """
    given = {name: single(value.detach() if detach else value) for name, value in zip("abcd", (a, b, c, d)) if value is not None}
    if missing := sorted(names_in(formula) - set(given)):
        raise UsageError(f'"{formula}" needs {", ".join(missing)}; give a reference for each')
    return compute(formula, {name: _fitted(name, value, a) for name, value in given.items()}).expand_as(a)


def _fitted(name: str, value: Tensor, like: Tensor) -> Tensor:
    if any(own not in (1, size) for own, size in zip(value.shape, like.shape)) or value.dim() > like.dim():
        shapes = f"a is {tuple(like.shape)}, {name} is {tuple(value.shape)}"
        raise UsageError(f"{shapes}; values.formula needs equal shapes, one number per entry of the leading axes, or one number")
    return value.reshape(*value.shape, *[1] * (like.dim() - value.dim())) if value.dim() else value
