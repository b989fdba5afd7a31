"""Expected values of distributions over bins."""

from __future__ import annotations

import torch

from kdflow.functional.axes import last
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.integral", gives=like("distribution", drop="c", swap={"e": "c"}))
def integral(distribution: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """``sum_k k * softmax(z)_k`` over the bins ``c``: the distances of GFL, in units of the stride.

    After ``transform.edges`` the result has the four edges as its axis c, (B, R, 4).

    Args:
        distribution: Bin logits along axis c.
        axes: Filled in by the compiler.
    """
    chances = last("c", distribution, axes).softmax(-1)
    return chances @ torch.arange(chances.shape[-1], dtype=chances.dtype, device=chances.device)
