"""Whether something is selected at all."""

from __future__ import annotations

from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.anywhere", gives=like("values"), no_grad=True)
def anywhere(values: AnyTensor) -> AnyTensor:
    """1 at every place if any entry of the tensor is above 0, else 0 at every place: a gate per level.

    Args:
        values: Any numbers or booleans, such as ``student.assign.positive``.
    """
    return (values > 0).any().float().expand(values.shape).clone()
