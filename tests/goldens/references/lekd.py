"""LEKD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from tests.goldens.references import Case, Draw, convolve

DIFFERENTIATED = {"grad": "cls", "grad.reg_bounded": "reg_bounded"}


def cases() -> Iterator[Draw]:
    for seed, rows, classes, positives, margin, temperature in (
        (0, 1, 1, 0, 0.0, 1.0),
        (1, 9, 20, 5, 0.3, 3.0),
        (2, 4, 2, 1, 0.01, 2.0),
    ):
        draw = Draw(seed).set(
            background_index=0, background_weight=2.5, mu=0.8, nu=0.3, margin=margin, temperature=temperature, gamma=0.5
        )
        draw.normal("student.roi_logits", rows, classes + 1).normal("teacher.roi_logits", rows, classes + 1)
        draw.put("roi_labels", draw.random.integers(classes + 1, size=rows))
        for side in ("student", "teacher", "target"):
            draw.normal(f"{side}.box_deltas", positives, 4)
        draw.normal("student.hint", 3, 2, 5, 4).normal("teacher.hint", 3, 5, 5, 4)
        yield draw.convolution("param.adapt", 5, 2)


def reference(case: Case) -> dict[str, Tensor]:
    ours, theirs = (case[f"{side}.roi_logits"] / case["hp.temperature"] for side in ("student", "teacher"))
    entropy = -theirs.softmax(1) * ours.log_softmax(1)
    weights = torch.ones(ours.shape[1]).double()
    weights[0] = case["hp.background_weight"]
    soft, hard = (entropy * weights).sum(1).mean(), cross_entropy(case["student.roi_logits"], case["roi_labels"].long())
    deltas, wanted = case["student.box_deltas"], case["target.box_deltas"]
    error, other = ((case[f"{side}.box_deltas"] - wanted).square().sum(1) for side in ("student", "teacher"))
    count = max(len(deltas), 1)
    bounded = torch.where(error + case["hp.margin"] > other, error, 0.0).sum() / count
    own = smooth_l1_loss(deltas, wanted, reduction="sum") / count
    return {
        "cls_soft": soft,
        "cls_hard": hard,
        "cls_soft_unweighted": entropy.sum(1).mean(),
        "cls": case["hp.mu"] * hard + (1 - case["hp.mu"]) * soft,
        "reg_bounded": bounded,
        "reg_hard_smooth_l1": own,
        "reg": own + case["hp.nu"] * bounded,
        "hint_mse_mean": (convolve(case, "param.adapt", case["student.hint"]) - case["teacher.hint"]).square().mean(),
    }
