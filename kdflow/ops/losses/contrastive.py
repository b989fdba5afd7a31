"""Tell the matching row from all others."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.checks import same_shape
from kdflow.functional.statistics import unit
from kdflow.kinds import Rows, RowValues
from kdflow.operation import op


@op("loss.contrastive")
def contrastive(student: Rows, teacher: Rows, temperature: Annotated[float, Field(gt=0)] = 0.07) -> RowValues:
    """InfoNCE: each teacher row must find the student row of its own number among all, (N,).

    ``-ln softmax_j(cos(t_i, s_j) / T)`` at ``j = i``; all rows of the batch are each other's negatives. Gradient flows
    to both sides. It is not 0 at equality.

    Args:
        student: (N, C) rows.
        teacher: (N, C) rows of the same objects.
        temperature: T.
    """
    same_shape(student, teacher)
    similarities = unit(teacher, (1,)) @ unit(student, (1,)).T / temperature
    return torch.logsumexp(similarities, 1) - similarities.diagonal()
