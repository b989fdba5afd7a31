"""Teach-DETR."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from tests.goldens.references import Case, Draw, add, group


def cases() -> Iterator[Draw]:
    for seed, layers, counts, queries, classes in ((0, 3, [2, 0, 4], 7, 3), (1, 1, [0], 4, 2), (2, 2, [4, 1], 4, 5)):
        draw = Draw(seed).set(
            weight_cls=1.5, weight_bbox=4.0, weight_giou=2.5, cost_cls=1.0, cost_bbox=3.0, cost_giou=2.0, focal_alpha=0.3,
            focal_gamma=1.5, unmatched_weight=0.4,
        )
        batch = len(counts)
        draw.normal("student.logits", layers, batch, queries, classes).put("student.boxes", boxes(draw, layers, batch, queries))
        draw.normal("student.encoder_logits", batch, queries, classes).put("student.encoder_boxes", boxes(draw, batch, queries))
        for image, count in enumerate(counts):
            draw.put(f"teacher.aux.boxes.{image}", boxes(draw, count))
            draw.put(f"teacher.aux.labels.{image}", draw.random.integers(classes, size=count))
            draw.put(f"teacher.aux.scores.{image}", draw.random.uniform(0, 1, count).astype(np.float32))
        yield draw


def boxes(draw: Draw, *shape: int) -> np.ndarray:
    centers, sides = draw.random.uniform(0.3, 0.7, (*shape, 2)), draw.random.uniform(0.1, 0.5, (*shape, 2))
    return np.concatenate([centers, sides], -1).astype(np.float32)


def reference(case: Case) -> dict[str, Tensor]:
    scores, labels = group(case, "teacher.aux.scores"), group(case, "teacher.aux.labels")
    found: dict[str, Tensor] = {}
    for layer, own in enumerate(zip(case["student.logits"], case["student.boxes"], strict=True)):
        parts = losses(case, *own, labels, scores, float(case["hp.unmatched_weight"]))
        found |= {f"{name}.layer{layer}": value for name, value in parts.items()}
    ones, first = [torch.ones_like(s) for s in scores], [torch.zeros_like(k) for k in labels]
    parts = losses(case, case["student.encoder_logits"], case["student.encoder_boxes"], first, ones, 1.0)
    found |= {f"{name}.encoder": value for name, value in parts.items()}
    weights = {"ce": "weight_cls", "bbox": "weight_bbox", "giou": "weight_giou"}
    return {**found, "total": add([case[f"hp.{weights[key.split('.')[0]]}"] * value for key, value in found.items()])}


def losses(
    case: Case, logits: Tensor, predicted: Tensor, labels: list[Tensor], scores: list[Tensor], rest: float
) -> dict[str, Tensor]:
    alpha, gamma = case["hp.focal_alpha"], case["hp.focal_gamma"]
    count = max(sum(map(len, scores)), 1)
    sums: dict[str, list[Tensor]] = {"ce": [], "bbox": [], "giou": []}
    for image, (x, b) in enumerate(zip(logits, predicted, strict=True)):
        wanted, score = case[f"teacher.aux.boxes.{image}"].double(), scores[image]
        p, apart = x.sigmoid(), (b[:, None] - wanted).abs().sum(-1)
        giou = generalized_box_iou(*(box_convert(t, "cxcywh", "xyxy") for t in (b, wanted)))
        gain = alpha * (1 - p) ** gamma * -(p + 1e-8).log() - (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
        cost = case["hp.cost_cls"] * gain[:, labels[image].long()] + case["hp.cost_bbox"] * apart - case["hp.cost_giou"] * giou
        rows, columns = (torch.as_tensor(i) for i in linear_sum_assignment(cost.detach().numpy()))
        target, weight = torch.zeros_like(x), torch.full_like(x[:, 0], rest)
        target[rows, labels[image].long()[columns]], weight[rows] = 1.0, score.to(weight)[columns]
        chance = torch.where(target > 0, p, 1 - p)
        focal = torch.where(target > 0, alpha, 1 - alpha) * (1 - chance) ** gamma * -chance.log()
        sums["ce"].append((focal * weight[:, None]).sum() / count)
        sums["bbox"].append((apart[rows, columns] * score[columns]).sum() / count)
        sums["giou"].append((1 - score[columns] * giou[rows, columns]).sum() / count)
    return {name: add(values) for name, values in sums.items()}
