"""TAR-Distill: maps and class scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from tests.goldens.references import Case, Draw, convolve, group, level_of

DIFFERENTIATED = {"grad": "grads"}
SIZE = (96, 128)


def cases() -> Iterator[Draw]:
    for seed, counts, width, strides, labels in (
        (0, [0, 0], 3, (4, 8, 16), None),
        (1, [4, 0, 2], 2, (8, 16), [0, 1, 2]),
        (2, [1], 4, (4,), [2, 2]),
    ):
        draw = Draw(seed).set(feature_weight=0.7, decay_factor=0.5, gaussian_var=2.0, level_base_size=56, num_classes=2)
        draw.put("image_size", SIZE).put("strides", strides).boxes(counts, SIZE)
        if counts[0] > 2:
            draw.arrays["gt_boxes.0"][0] = np.float32([17, 13, 18.5, 60])
        grids = [(SIZE[0] // s, SIZE[1] // s) for s in strides]
        draw.maps("student.neck", len(counts), width, grids).maps("teacher.neck", len(counts), width, grids)
        for level in range(len(strides)):
            draw.convolution(f"param.neck_adapt.{level}", width, width, 3)
        if labels:
            draw.normal("student.roi_logits", len(labels), 3).normal("teacher.roi_logits", len(labels), 3).put(
                "roi_labels", labels
            )
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    losses, found = [], {}
    strides = [int(s) for s in case["strides"]]
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        mask = theirs.new_zeros(len(theirs), *theirs.shape[2:])
        for image, boxes in enumerate(group(case, "gt_boxes")):
            for box in boxes:
                if level_of(box, len(strides)) == level:
                    mask[image] = torch.maximum(mask[image], bell(mask[image], box / strides[level]))
        error = (convolve(case, f"param.neck_adapt.{level}", ours, padding=1) - theirs).square()
        losses.append((mask[:, None] * error).sum() / (2 * ours.shape[1] * mask.sum()).clamp(min=1))
        found[f"mask.neck.{level}"] = mask
    feature = case["hp.feature_weight"] * case["hp.decay_factor"] * torch.stack(losses).mean()
    found |= {"feature": feature, "grads": feature}
    if "student.roi_logits" in case and (case["roi_labels"] < case["hp.num_classes"]).any():
        rows = case["roi_labels"] < case["hp.num_classes"]
        ours, theirs = (case[f"{side}.roi_logits"].softmax(1)[rows] for side in ("student", "teacher"))
        found["cls_bce_fg_mean"] = binary_cross_entropy(ours, theirs)
        found["grads"] = feature + found["cls_bce_fg_mean"]
    return found


def bell(mask: Tensor, box: Tensor) -> Tensor:
    x0, y0, x1, y1 = (int(v) for v in box)
    result = torch.zeros_like(mask)
    if x0 == x1 or y0 == y1:
        result[y0, x0] = 1
        return result
    height, width = y1 - y0, x1 - x0
    rows = torch.arange(y0, min(y1, mask.shape[0])) - y0 - height / 2
    columns = torch.arange(x0, min(x1, mask.shape[1])) - x0 - width / 2
    values = torch.exp(
        -columns[None].square() / (2 * (width / 2) ** 2) - rows[:, None].square() / (2 * (height / 2) ** 2)
    )
    result[y0:y1, x0:x1] = values
    return result
