"""KD-DETR."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, add, divergence


def cases() -> Iterator[Draw]:
    for seed, batch, specific, general, classes, layers in ((0, 1, 3, 0, 2, 4), (1, 3, 6, 2, 9, 1), (2, 3, 1, 1, 1, 2)):
        draw = Draw(seed).set(temperature=4.0, weight_cls=1.5, weight_bbox=3.0, weight_giou=0.5)
        for name, count in (("specific", specific), ("general", general)):
            for side, stack in (("student", (layers,)), ("teacher", ())):
                if count:
                    draw.normal(f"{side}.{name}.logits", *stack, batch, count, classes, scale=2.0)
                    centers = draw.random.uniform(0.2, 0.8, (*stack, batch, count, 2))
                    sides = draw.random.uniform(0.05, 0.6, (*stack, batch, count, 2))
                    draw.put(f"{side}.{name}.boxes", np.concatenate([centers, sides], -1).astype(np.float32))
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    found = {}
    for name in ("specific", "general"):
        if f"student.{name}.logits" in case:
            found |= {f"{name}_{key}": value for key, value in group_terms(case, name).items()}
    weights = {key: case[f"hp.weight_{key}"] for key in ("cls", "bbox", "giou")}
    return {**found, "total": add([weights[key.partition("_")[2]] * value for key, value in found.items()])}


def group_terms(case: Case, name: str) -> dict[str, Tensor]:
    logits, boxes = case[f"teacher.{name}.logits"], case[f"teacher.{name}.boxes"]
    trust = logits.sigmoid().amax(-1)
    parts: dict[str, list[Tensor]] = {"cls": [], "bbox": [], "giou": []}
    for ours, places in zip(case[f"student.{name}.logits"], case[f"student.{name}.boxes"], strict=True):
        parts["cls"].append((trust * divergence(logits, ours, case["hp.temperature"])).sum() / ours.shape[-1])
        parts["bbox"].append((trust * (places - boxes).abs().mean(-1)).sum() / trust.sum())
        parts["giou"].append((trust * (1 - giou(corners(places), corners(boxes)))).sum() / trust.sum())
    return {key: add(values) for key, values in parts.items()}


def corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    union = sum((t[..., 2:] - t[..., :2]).prod(-1) for t in (a, b)) - shared
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return shared / (union + 1e-6) - (hull - union) / (hull + 1e-6)
