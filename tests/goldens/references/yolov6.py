"""Self-distillation of YOLOv6."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, divergence, group


def cases() -> Iterator[Draw]:
    for seed, batch, classes, bins, sizes, share, temperature, epoch in (
        (0, 1, 5, 4, [(3, 4), (1, 2)], 0.3, 20.0, 0),
        (1, 3, 2, 9, [(4, 3)], 0.5, 1.0, 7),
        (2, 2, 3, 17, [(2, 2), (1, 1)], 0.0, 5.0, 4),
    ):
        draw = Draw(seed).set(epoch=epoch, epochs=8, temperature=temperature, class_weight=0.8, dfl_weight=1.5, loss_dfl=0.5)
        for side in ("student", "teacher"):
            draw.maps(f"{side}.cls_logits", batch, classes, sizes).maps(f"{side}.box_logits", batch, 4 * bins, sizes)
        for level, (height, width) in enumerate(sizes):
            draw.put(f"positive.{level}", np.asarray(draw.random.uniform(size=(batch, height * width)) < share))
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    scores = [places(case, f"{side}.cls_logits").sigmoid() for side in ("teacher", "student")]
    chosen = torch.cat([level.flatten() for level in group(case, "positive")])
    edges = [places(case, f"{side}.box_logits")[chosen].unflatten(1, (4, -1)) for side in ("teacher", "student")]
    temperature, done = float(case["hp.temperature"]), float(case["hp.epoch"]) / float(case["hp.epochs"])
    left = 1 - 0.99 * math.sin(math.pi * done / 2) ** 2
    classes = case["hp.class_weight"] * left * divergence(*scores, temperature).sum()
    distances = divergence(*edges, temperature).sum() / max(4 * int(chosen.sum()), 1)
    boxes = case["hp.loss_dfl"] * case["hp.dfl_weight"] * left * distances
    return {"loss_cls": classes, "loss_dfl": boxes, "total": classes + boxes}


def places(case: Case, name: str) -> Tensor:
    """(B, C, H, W) per level -> (R, C), level by level."""
    return torch.cat([level.movedim(1, 3).flatten(0, 2) for level in group(case, name)])

