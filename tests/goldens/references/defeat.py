"""DeFeat, with the class scores of the box head or with the backbone's stages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, relu

from tests.goldens.references import Case, Draw, add, convolve, divergence, group, level_of

SIZE, STRIDES = (96, 128), (4, 8, 16, 32, 64)


def cases() -> Iterator[Draw]:
    for seed, counts, width, levels, labels in (
        (0, [0], 3, 5, [2, 2, 2]),
        (1, [3, 0, 1], 2, 3, [0, 1, 2, 2, 0]),
        (2, [6, 2], 4, 4, [1, 0, 0]),
    ):
        draw = sides(seed, counts, width, levels)
        draw.set(head_cls_w=1.5, head_cls_back_w=0.5, head_cls_T=2.0, num_classes=2, decay_factor=0.4)
        draw.normal("student.roi_logits", len(labels), 3).normal("teacher.roi_logits", len(labels), 3)
        yield draw.put("roi_labels", labels)
    for seed, counts, stages in ((3, [0, 0], 3), (4, [4], 2)):
        draw = sides(seed, counts, 2, 5).set(hint_bb_w=0.7, hint_bb_back_w=1.1, num_classes=2)
        grids = [(SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)[:stages]]
        draw.put("backbone_strides", [8, 16, 32][:stages])
        draw.maps("student.backbone", len(counts), 3, grids).maps("teacher.backbone", len(counts), 4, grids)
        for stage in range(stages):
            draw.convolution(f"param.backbone_adapt.{stage}", 4, 3, 3)
        yield draw


def sides(seed: int, counts: list[int], width: int, levels: int) -> Draw:
    draw = Draw(seed).set(hint_neck_w=2.0, hint_neck_back_w=5.0).put("image_size", SIZE)
    grids = [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in STRIDES[:levels]]
    draw.put("strides", STRIDES[:levels]).boxes(counts, SIZE)
    if max(counts) > 2:  # one that leaves the image, one that no cell of its level holds
        draw.arrays["gt_boxes.0"][0] += np.float32([0, 0, 90, 90])
        draw.arrays["gt_boxes.0"][1] = np.float32([17, 13, 18.5, 60])
    draw.maps("student.neck", len(counts), width, grids).maps("teacher.neck", len(counts), width, grids)
    for level in range(levels):
        draw.convolution(f"param.neck_adapt.{level}", width, width, 3)
    return draw


def reference(case: Case) -> dict[str, Tensor]:
    decay = case.get("hp.decay_factor", torch.tensor(1.0))
    found = neck(case, decay)
    if "student.roi_logits" in case:
        labels, background = case["roi_labels"], case["hp.num_classes"]
        rows = divergence(case["teacher.roi_logits"], case["student.roi_logits"], case["hp.head_cls_T"])
        for name, chosen, weight in (
            ("fg", labels < background, "head_cls_w"),
            ("bg", labels == background, "head_cls_back_w"),
        ):
            found[f"cls_{name}"] = decay * case[f"hp.{weight}"] * rows[chosen].sum() / max(int(chosen.sum()), 1)
    if "student.backbone.0" in case:
        found |= backbone(case, decay)
    names = ("neck_fg", "neck_bg", "cls_fg", "cls_bg", "backbone_fg", "backbone_bg")
    return {**found, "total": add([found[name] for name in names if name in found])}


def neck(case: Case, decay: Tensor) -> dict[str, Tensor]:
    objects, rest, found = [], [], {}
    strides = [int(s) for s in case["strides"]]
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        mask = ours.new_zeros(len(ours), *ours.shape[2:])
        for image, boxes in enumerate(group(case, "gt_boxes")):
            for box in boxes:
                if level_of(box, len(strides)) == level:
                    paint(mask[image], box, strides[level])
        found[f"mask.neck.{level}"] = mask
        error = (convolve(case, f"param.neck_adapt.{level}", ours, padding=1) - theirs).square()
        objects.append(masked(error, mask))
        rest.append(masked(error, 1 - mask))
    return {
        **found,
        "neck_fg": decay * case["hp.hint_neck_w"] * torch.stack(objects).mean(),
        "neck_bg": decay * case["hp.hint_neck_back_w"] * torch.stack(rest).mean(),
    }


def backbone(case: Case, decay: Tensor) -> dict[str, Tensor]:
    height, width = (-(-int(side) // 4) for side in case["image_size"])
    finest = torch.zeros(len(group(case, "gt_boxes")), height, width).double()
    for image, boxes in enumerate(group(case, "gt_boxes")):
        for box in boxes:
            paint(finest[image], box, 4)
    objects, rest = [], []
    for stage, (ours, theirs) in enumerate(
        zip(group(case, "student.backbone"), group(case, "teacher.backbone"), strict=True)
    ):
        mask = interpolate(finest[:, None], ours.shape[2:], mode="nearest")[:, 0]
        error = (relu(convolve(case, f"param.backbone_adapt.{stage}", ours, padding=1)) - theirs).square()
        objects.append(masked(error, mask))
        rest.append(masked(error, 1 - mask))
    return {
        "backbone_fg": decay * case["hp.hint_bb_w"] * torch.stack(objects).mean(),
        "backbone_bg": decay * case["hp.hint_bb_back_w"] * torch.stack(rest).mean(),
    }


def masked(error: Tensor, mask: Tensor) -> Tensor:
    return (error * mask[:, None]).sum() / (2 * error.shape[1] * mask.sum()).clamp(min=1)


def paint(mask: Tensor, box: Tensor, stride: int) -> None:
    x0, y0 = (max(int(v / stride), 0) for v in box[:2])
    x1, y1 = min(int(box[2] / stride), mask.shape[1]), min(int(box[3] / stride), mask.shape[0])
    if x0 == x1 or y0 == y1:
        mask[y0, x0] = 1
    else:
        mask[y0:y1, x0:x1] = 1
