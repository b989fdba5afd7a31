"""Labels as targets of independent choices."""

from __future__ import annotations

import torch

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("transform.one_hot", gives=kind_of("like"), no_grad=True, example={"like": "b r c", "labels": "b r"})
def one_hot(labels: AnyTensor, like: AnyTensor) -> AnyTensor:
    """1 at the class of every row, place or query and 0 elsewhere: (...) -> (..., C).

    Labels that are no class of ``like`` (a background without a column, ignored places) give zeros.

    Args:
        labels: Class of each row or place, such as ``student.assign.labels``.
        like: Logits whose shape is taken, classes last.
    """
    if labels.shape != like.shape[:-1]:
        shapes = f"labels are {tuple(labels.shape)}, like is {tuple(like.shape)}"
        raise UsageError(f"{shapes}; transform.one_hot needs one label for each row or place")
    classes = torch.arange(like.shape[-1], device=labels.device)
    return (labels[..., None] == classes).to(single(like).dtype)
