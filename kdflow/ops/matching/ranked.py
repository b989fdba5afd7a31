"""Queries of two models paired inside the objects that they look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.kinds import Pairs, TokenValues
from kdflow.operation import op


def _infer(student: TokenValues, teacher: TokenValues, **_: Any) -> Any:
    index = torch.arange(min(student.shape[1], teacher.shape[1]), device=student.device)
    return [[(index, index) for _ in range(len(student))]]


@op("matching.ranked", no_grad=True, infer=_infer)
def ranked(student: TokenValues, teacher: TokenValues, student_fit: TokenValues, teacher_fit: TokenValues) -> Pairs:
    """The best query of an object with the other model's best, the second with the second, and so on: one layer of pairs.

    What one model has more of an object stays unpaired. A local pairing instead of one over all queries: QSKD (arXiv 2409.06443).

    Args:
        student: (B, Q) number of each query's object, -1 for none, such as ``objects`` of ``queries.groups``.
        teacher: (B, Q') likewise.
        student_fit: (B, Q) how well it fits, the larger the better.
        teacher_fit: (B, Q') likewise.
    """
    sides = ((student, student_fit), (teacher, teacher_fit))
    most, images = max(student.shape[1], teacher.shape[1]), []
    for image in range(len(student)):
        ours, theirs = (_keys(objects[image], fit[image], most) for objects, fit in sides)
        equal = (ours[0][:, None] == theirs[0][None]) & (ours[0][:, None] >= 0)
        rows, columns = equal.nonzero(as_tuple=True)
        images.append((ours[1][rows], theirs[1][columns]))
    return [images]


def _keys(objects: Tensor, fit: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Of every query, best first: a number that says its object and its rank there (-1 for none), and the query's number.

    ``most`` is above every rank.
    """
    order = torch.argsort(fit, descending=True, stable=True)
    owner = objects.long()[order]
    before = torch.tril(owner[:, None] == owner[None], diagonal=-1).sum(1)
    return torch.where(owner >= 0, owner * most + before, -1), order
