"""Mimic: regions pooled from both sides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from tests.goldens.references import Case, Draw, convolve, group, level_of

DIFFERENTIATED = {"grad": "mimic"}
SIZE = (96, 128)


def cases() -> Iterator[Draw]:
    for seed, counts, ours, theirs, strides, pool in (
        (0, [3], 2, 4, (8,), 2),
        (1, [2, 0, 5], 3, 3, (4, 8, 16), 5),
        (2, [0, 1], 2, 3, (8, 16), 3),
    ):
        draw = Draw(seed).set(
            pool_size=pool,
            sampling_ratio=0,
            roi_align_aligned=0,
            level_base_size=40,
            legacy_plus_one=1,
            weight=1.7,
            roi_levels=range(len(strides)),
        )
        draw.put("image_size", SIZE).put("strides", strides).boxes(counts, SIZE)
        rows = [
            np.insert(box, 0, image) for image in range(len(counts)) for box in draw.arrays.pop(f"gt_boxes.{image}")
        ]
        draw.put("proposals", np.stack(rows).astype(np.float32))
        grids = [(SIZE[0] // s, SIZE[1] // s) for s in strides]
        draw.maps("student.neck", len(counts), ours, grids).maps("teacher.neck", len(counts), theirs, grids)
        yield draw.convolution("param.adapt", theirs, ours) if ours != theirs else draw


def reference(case: Case) -> dict[str, Tensor]:
    ours, theirs, strides = group(case, "student.neck"), group(case, "teacher.neck"), case["strides"].tolist()
    errors = []
    for row in case["proposals"]:
        level = level_of(row[1:], len(strides), float(case["hp.level_base_size"]))
        size, scale = int(case["hp.pool_size"]), 1 / strides[level]
        student, teacher = (
            roi_align(
                maps,
                row[None].to(maps),
                size,
                scale,
                int(case["hp.sampling_ratio"]),
                bool(case["hp.roi_align_aligned"]),
            )
            for maps in (convolve(case, "param.adapt", ours[level]), theirs[level])
        )
        errors.append((student - teacher).square())
    return {"mimic": case["hp.weight"] * torch.stack(errors).mean() / 2}
