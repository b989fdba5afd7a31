"""DIST."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, add, group


def cases() -> Iterator[Draw]:
    for seed, rows, classes, scale in ((0, 7, 3, 2.0), (1, 1, 4, 1.0), (2, 40, 9, 6.0)):
        draw = Draw(seed)
        yield draw.normal("student.roi_logits", rows, classes, scale=scale).normal("teacher.roi_logits", rows, classes)
    for seed, batch, anchors, classes, sizes in ((3, 1, 1, 4, [(3, 5)]), (4, 3, 2, 1, [(4, 2), (2, 1), (1, 1)])):
        draw = Draw(seed).set(num_classes=classes)
        yield draw.maps("student.cls_logits", batch, anchors * classes, sizes).maps(
            "teacher.cls_logits", batch, anchors * classes, sizes
        )


def reference(case: Case) -> dict[str, Tensor]:
    tables = list(zip(scores(case, "student"), scores(case, "teacher"), strict=True))
    inter = add([distance(ours, theirs) for ours, theirs in tables])
    intra = add([distance(ours.T, theirs.T) for ours, theirs in tables])
    return {"inter": inter, "intra": intra, "total": inter + intra}


def scores(case: Case, side: str) -> list[Tensor]:
    """A table per level, or that of all regions."""
    if f"{side}.roi_logits" in case:
        return [case[f"{side}.roi_logits"].softmax(1)]
    return [level.sigmoid().movedim(1, 3).flatten(0, 2) for level in group(case, f"{side}.cls_logits")]


def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of the rows of both tables, their mean."""
    products = []
    for one, other in zip(ours, theirs, strict=True):
        one, other = one - one.mean(), other - other.mean()
        length = [(side @ side).clamp(min=1e-300).sqrt() for side in (one, other)]
        products.append(one @ other / (length[0] * length[1] + 1e-8))
    return 1 - torch.stack(products).mean()
