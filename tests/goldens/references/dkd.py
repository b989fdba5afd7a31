"""DKD without its partner."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, divergence

DIFFERENTIATED = {"grad": "loss_dkd"}


def cases() -> Iterator[Draw]:
    for seed, labels, classes, temperature in ((0, [3], 3, 1.0), (1, [0, 1, 2, 2, 1], 2, 4.0), (2, [5] * 7, 5, 2.0)):
        draw = Draw(seed).set(alpha=0.8, beta=2.0, T=temperature, num_classes=classes).put("roi_labels", labels)
        for side in ("student", "teacher"):
            draw.normal(f"{side}.roi_cls_logits", len(labels), classes + 1, scale=3.0)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    if "student.neck.0" in case:
        return {}
    labels, temperature = case["roi_labels"], case["hp.T"]
    ours, theirs = (case[f"{side}.roi_cls_logits"] / temperature for side in ("student", "teacher"))
    target, others = [], []
    for student, teacher, label in zip(ours, theirs, labels, strict=True):
        rest = torch.arange(len(student)) != label
        binary = [torch.stack([z[label], z[rest].logsumexp(0)]) for z in (teacher, student)]
        target.append(divergence(*binary, temperature=1.0))
        others.append(divergence(teacher[rest], student[rest], 1.0))
    tckd, nckd = (temperature**2 * torch.stack(values).mean() for values in (target, others))
    return {"tckd": tckd, "nckd": nckd, "loss_dkd": case["hp.alpha"] * tckd + case["hp.beta"] * nckd}
