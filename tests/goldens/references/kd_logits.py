"""Plain distillation of class scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.goldens.references import Case, Draw, divergence, group

DIFFERENTIATED = {"grad": "grads"}


def cases() -> Iterator[Draw]:
    for seed, batch, labels, temperature, anchors, sizes, sampled in (
        (0, 1, [2], 3.0, 1, [(5, 7)], 0.5),
        (1, 3, [0, 1, 0], 1.0, 4, [(6, 4), (1, 1)], 0.1),
        (2, 2, [2] * 6, 2.0, 2, [(3, 3)], 0.0),
    ):
        draw = Draw(seed).set(background_index=2, temperature=temperature).put("roi_labels", labels)
        for side in ("student", "teacher"):
            draw.normal(f"{side}.roi_logits", len(labels), 3, scale=2.0)
            draw.maps(f"{side}.rpn_objectness", batch, anchors, sizes)
        for level, size in enumerate(sizes):
            drawn = draw.random.uniform(size=(batch, anchors, *size))
            draw.put(f"rpn_labels.{level}", np.where(drawn < sampled, 0, np.where(drawn < 1.5 * sampled, 1, -1)))
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    rows = divergence(case["teacher.roi_logits"], case["student.roi_logits"], case["hp.temperature"])
    background = case["roi_labels"] == case["hp.background_index"]
    flat = {
        name: torch.cat([level.flatten() for level in group(case, name)])
        for name in ("student.rpn_objectness", "teacher.rpn_objectness", "rpn_labels")
    }
    sampled = flat["rpn_labels"] >= 0
    ours, theirs = flat["student.rpn_objectness"][sampled], flat["teacher.rpn_objectness"][sampled]
    count = max(int(sampled.sum()), 1)
    everything, entropy = rows.mean(), binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="sum") / count
    return {
        "roi_kl_all": everything,
        "roi_kl_fg": rows[~background].sum() / max(int((~background).sum()), 1),
        "roi_kl_bg": rows[background].sum() / max(int(background.sum()), 1),
        "roi_kl_variant_elementwise_mean": everything / case["student.roi_logits"].shape[1],
        "rpn_soft_bce": entropy,
        "rpn_variant_mse_of_sigmoid_mean": (ours.sigmoid() - theirs.sigmoid()).square().sum() / count,
        "grads": everything + entropy,
    }
