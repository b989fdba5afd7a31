"""PKD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import interpolate

from tests.goldens.references import Case, Draw, add, group


def cases() -> Iterator[Draw]:
    for seed, batch, width, ours, theirs, resize in (
        (0, 1, 3, [(5, 7)], [(5, 7)], 1),
        (1, 3, 4, [(6, 4), (3, 2)], [(12, 8), (6, 4)], 1),
        (2, 3, 2, [(8, 10), (4, 5), (2, 3), (1, 2)], [(4, 5), (2, 3), (1, 2), (1, 2)], 0),
        (3, 2, 5, [(9, 9)], [(4, 6)], 0),
    ):
        draw = Draw(seed).set(weight=3.5, resize_student=resize)
        yield draw.maps("student.neck", batch, width, ours).maps("teacher.neck", batch, width, theirs)


def reference(case: Case) -> dict[str, Tensor]:
    losses = []
    for ours, theirs in zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True):
        if ours.shape[2] != theirs.shape[2]:
            if case["hp.resize_student"]:
                ours = interpolate(ours, theirs.shape[2:], mode="bilinear")
            else:
                theirs = interpolate(theirs, ours.shape[2:], mode="bilinear")
        losses.append((standard(ours) - standard(theirs)).square().mean() / 2)
    return {"total": case["hp.weight"] * add(losses)}


def standard(features: Tensor) -> Tensor:
    centred = features - features.mean((0, 2, 3), keepdim=True)
    return centred / (features.std((0, 2, 3), keepdim=True) + 1e-6)
