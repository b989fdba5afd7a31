"""Distillation of PP-YOLOE+. Boxes are given, not decoded; the feature terms are FGD's on standardised maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.goldens.references import Case, Draw, convolve, divergence, fgd, group

RESPONSE = {"classes": 1.0, "boxes": 2.5, "edges": 0.5, "positives": 20000.0}


def cases() -> Iterator[Draw]:
    for seed, counts, classes, bins, ours, theirs, sizes, share in (
        (0, [2, 1], 4, 5, 4, 4, [(4, 6), (2, 3)], 0.4),
        (1, [0, 3, 1], 2, 9, 2, 6, [(7, 3)], 0.2),
        (2, [1], 3, 4, 4, 4, [(3, 3), (1, 1)], 0.0),
    ):
        draw = Draw(seed).set(response=4.0, temperature=0.5, alpha=1e-2, beta=5e-3, gamma=1e-2, **{"lambda": 5e-4})
        batch = len(counts)
        for side, width in (("student", ours), ("teacher", theirs)):
            draw.maps(f"{side}.cls_logits", batch, classes, sizes).maps(f"{side}.box_logits", batch, 4 * bins, sizes)
            draw.maps(f"{side}.neck", batch, width, sizes)
        for level, (height, width) in enumerate(sizes):
            corner = draw.random.uniform(0, 40, (batch, height * width, 2))
            for name in ("student.boxes", "teacher.boxes", "matched_boxes"):
                near = corner + draw.random.uniform(0, 6, corner.shape)
                far = near + draw.random.uniform(4, 20, corner.shape)
                draw.put(f"{name}.{level}", np.concatenate([near, far], 2).astype(np.float32))
            draw.put(f"positive.{level}", draw.random.uniform(size=(batch, height * width)) < share)
            fgd.draw_weights(draw, level, ours, theirs)
        yield draw.boxes(counts, (80, 70)).put("image_sizes", [(80, 70)] * batch)


def reference(case: Case) -> dict[str, Tensor]:
    found = {name: case["hp.response"] * RESPONSE[name] * value for name, value in response(case).items()}
    found["features"] = fgd.reference({k: v for k, v in case.items() if ".align." not in k} | standardised(case))["total"]
    return {**found, "total": torch.stack(list(found.values())).sum()}


def response(case: Case) -> dict[str, Tensor]:
    chosen = torch.cat([level.flatten() for level in group(case, "positive")])
    ours, theirs = (boxes_of(case, f"{side}.boxes")[chosen] for side in ("student", "teacher"))
    soft = intersection(theirs, boxes_of(case, "matched_boxes")[chosen])[0]
    count, scores = soft.sum(), [places(case, f"{side}.cls_logits").sigmoid() for side in ("teacher", "student")]
    edges = [places(case, f"{side}.box_logits")[chosen].unflatten(1, (4, -1)) for side in ("student", "teacher")]
    target, score = scores
    entropy = -(target * score.log() + (1 - target) * (1 - score).log())
    softened = divergence(*(side[chosen] for side in scores), 10.0).sum() / (max(int(chosen.sum()), 1) * score.shape[1])
    by_edge = cross_entropy(edges[0].flatten(0, 1), edges[1].flatten(0, 1).softmax(1), reduction="none").view(-1, 4)
    return {
        "classes": (entropy * (score - target).square()).sum() / count.clamp(min=1),
        "boxes": ((1 - generalized(ours, theirs)) * soft).sum() / count.clamp(min=1e-9),
        "edges": (by_edge.mean(1) * soft).sum() / count.clamp(min=1e-9),
        "positives": softened,
    }


def standardised(case: Case) -> dict[str, Tensor]:
    """Maps of mean 0 and deviation 1 per channel, the student's as wide as the teacher's."""
    found = {}
    for side in ("student", "teacher"):
        for level, features in enumerate(group(case, f"{side}.neck")):
            wide = convolve(case, f"param.{level}.align", features) if side == "student" else features
            centred = wide - wide.mean((0, 2, 3), keepdim=True)
            spread = wide.std((0, 2, 3), keepdim=True) if wide[:, 0].numel() > 1 else 0.0
            found[f"{side}.neck.{level}"] = centred / (spread + 1e-6)
    return found


def places(case: Case, name: str) -> Tensor:
    """(B, C, H, W) per level -> (R, C), level by level."""
    return torch.cat([level.movedim(1, 3).flatten(0, 2) for level in group(case, name)])


def boxes_of(case: Case, name: str) -> Tensor:
    """(B, R, 4) per level -> (R, 4)."""
    return torch.cat([level.flatten(0, 1) for level in group(case, name)])


def intersection(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of boxes that belong together: IoU and union."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    return shared / union, union


def generalized(a: Tensor, b: Tensor) -> Tensor:
    overlap, union = intersection(a, b)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return overlap - (hull - union) / hull
