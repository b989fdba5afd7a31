"""yolo-l2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import relu

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, sizes, classes, branches, scale in (
        (0, 3, [5, 6, 8], [5, 6, 8], [(8, 6), (4, 3), (2, 2)], 5, 1, 2.0),
        (1, 1, [4], [4], [(5, 7)], 3, 2, 2.0),
        (2, 2, [3, 4], [8, 4], [(4, 4), (2, 2)], 5, 2, 0.1),
        (3, 1, [2], [3], [(1, 1)], 1, 1, 1.0),
    ):
        draw = Draw(seed).set(weight=6.0, eps=1e-9, dual_branch=int(branches == 2))
        draw.maps("student.neck", batch, ours, sizes).maps("teacher.neck", batch, theirs, sizes)
        cells = sum(height * width for height, width in sizes)
        for branch in ("one2many", "one2one")[:branches]:
            draw.normal(f"teacher.head.logits.{branch}", batch, classes, cells, scale=scale)
            draw.arrays[f"teacher.head.logits.{branch}"] -= 30 if scale < 1 else 0  # scores so small that eps counts
        for level, (inputs, outputs) in enumerate(zip(ours, theirs, strict=True)):
            draw.convolution(f"param.projector.{level}.0", outputs, inputs)
            draw.convolution(f"param.projector.{level}.2", outputs, outputs)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    logits = case["teacher.head.logits.one2many"]
    if "teacher.head.logits.one2one" in case:
        logits = (logits + case["teacher.head.logits.one2one"]) / 2
    losses, found, start = [], {}, 0
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        cells = theirs[0, 0].numel()
        score = logits[:, :, start : start + cells].sigmoid().amax(1).view(len(theirs), *theirs.shape[2:])
        start += cells
        hidden = relu(convolve(case, f"param.projector.{level}.0", ours))
        error = (convolve(case, f"param.projector.{level}.2", hidden) - theirs).square()
        losses.append((score[:, None] * error).sum() / (theirs.shape[1] * score.sum() + case["hp.eps"]))
        found[f"score.{level}"] = score
    total = case["hp.weight"] * add(losses)
    return {**found, "per_level": torch.stack(losses), "total": total}
