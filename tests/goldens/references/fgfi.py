"""FGFI, on one map by the authors' conventions or on a pyramid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import relu

from tests.goldens.references import Case, Draw, convolve, group, level_of, overlaps

DIFFERENTIATED = {"grad": "imitation"}
SIZE = (96, 128)


def cases() -> Iterator[Draw]:
    for seed, counts, stride in ((0, [0], 16), (1, [2, 0, 5], 16), (2, [0, 0, 1], 32)):
        draw = settings(seed, counts).set(legacy_plus_one=1).put("stride", stride)
        grid = (SIZE[0] // stride, SIZE[1] // stride)
        draw.normal("student.feat", len(counts), 3, *grid).normal("teacher.feat", len(counts), 2, *grid)
        yield draw.put("anchors_at_origin", anchors(stride, 2)).convolution("param.adapt", 2, 3, 3)
    for seed, counts, strides in ((3, [0, 0], (4, 8)), (4, [6], (8, 16, 32)), (5, [1, 0, 3], (4, 8, 16))):
        draw = settings(seed, counts).set(legacy_plus_one=0, level_base_size=56).put("strides", strides)
        grids = [(SIZE[0] // s, SIZE[1] // s) for s in strides]
        draw.maps("student.neck", len(counts), 3, grids).maps("teacher.neck", len(counts), 3, grids)
        for level, stride in enumerate(strides):
            draw.put(f"anchors_at_origin.{level}", anchors(stride, 8)).convolution(f"param.neck_adapt.{level}", 3, 3, 3)
        yield draw


def settings(seed: int, counts: list[int]) -> Draw:
    return Draw(seed).set(phi=0.6, weight=0.3).put("image_size", SIZE).boxes(counts, SIZE)


def anchors(stride: int, scale: int) -> np.ndarray:
    sides = np.array([[0.7, 1.4], [1, 1], [1.4, 0.7]]) * stride * scale / 2
    return np.concatenate([-sides, sides], 1).astype(np.float32)


def reference(case: Case) -> dict[str, Tensor]:
    if "student.feat" in case:
        ours, theirs = case["student.feat"], case["teacher.feat"]
        every = torch.stack(
            [mask(case, theirs, case["anchors_at_origin"], case["stride"], b) for b in group(case, "gt_boxes")]
        )
        error = (relu(convolve(case, "param.adapt", ours, padding=1)) - theirs).square() * every[:, None]
        return {"mask": every, "imitation": case["hp.weight"] * error.sum() / (2 * every.sum()).clamp(min=1)}
    losses, found = [], {}
    strides = case["strides"].tolist()
    names = ("student.neck", "teacher.neck", "anchors_at_origin")
    for level, (ours, theirs, origin) in enumerate(zip(*(group(case, name) for name in names), strict=True)):
        own = [boxes[[level_of(box, len(strides)) == level for box in boxes]] for boxes in group(case, "gt_boxes")]
        every = torch.stack([mask(case, theirs, origin, strides[level], boxes) for boxes in own])
        error = (convolve(case, f"param.neck_adapt.{level}", ours, padding=1) - theirs).square() * every[:, None]
        found[f"mask.neck.{level}"] = every
        losses.append(error.sum() / (2 * ours.shape[1] * every.sum()).clamp(min=1))
    return {**found, "imitation": case["hp.weight"] * torch.stack(losses).mean()}


def mask(case: Case, like: Tensor, origin: Tensor, stride: Tensor | int, boxes: Tensor) -> Tensor:
    rows, columns = like.shape[2:]
    y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    every = (torch.stack([x, y, x, y], -1)[:, :, None] + origin).view(-1, 4)
    found = like.new_zeros(rows, columns)
    for box in boxes:
        overlap = overlaps(every, box[None].to(every), float(case["hp.legacy_plus_one"]))[:, 0]
        hit = (overlap > case["hp.phi"] * overlap.max()) & (overlap.max() > 0)
        found[hit.view(rows, columns, -1).any(-1)] = 1
    return found
