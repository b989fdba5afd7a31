"""RM and PFI."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, group

DIFFERENTIATED = {"grad_rm": "loss_rm_weight1", "grad_pfi": "loss_pfi_sigmoid_weight1"}


def cases() -> Iterator[Draw]:
    for seed, counts, width, anchors, classes, sizes in (
        (0, [0], 3, 1, 1, [(4, 3)]),
        (1, [3, 0, 6], 2, 2, 5, [(5, 4), (2, 2), (1, 1)]),
        (2, [1, 1], 4, 9, 2, [(3, 3)]),
    ):
        draw = Draw(seed).set(w_rm=4.0, w_pfi=1.5, anchors_per_cell=anchors, num_classes=classes)
        for side in ("student", "teacher"):
            draw.maps(f"{side}.neck", len(counts), width, sizes)
            draw.maps(f"{side}.cls_logits", len(counts), anchors * classes, sizes)
        places = sum(anchors * height * columns for height, columns in sizes)
        index = [draw.random.integers(-1, max(count, 1), places) if count else np.full(places, -1) for count in counts]
        draw.put("anchor_gt_index", np.stack(index))
        for image, count in enumerate(counts):
            draw.put(f"gt_labels.{image}", draw.random.integers(classes, size=count))
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    ranks, features = ranking(case), imitation(case, torch.sigmoid)
    return {
        "loss_rm_weight1": ranks,
        "loss_pfi_sigmoid_weight1": features,
        "loss_pfi_logits_weight1": imitation(case, lambda logits: logits),
        "total": case["hp.w_rm"] * ranks + case["hp.w_pfi"] * features,
    }


def ranking(case: Case) -> Tensor:
    classes, images = int(case["hp.num_classes"]), []
    scores = {
        side: torch.cat(
            [t.permute(0, 2, 3, 1).reshape(len(t), -1, classes) for t in group(case, f"{side}.cls_logits")], 1
        ).sigmoid()
        for side in ("student", "teacher")
    }
    for image, labels in enumerate(group(case, "gt_labels")):
        total = scores["student"][image].sum() * 0
        for number, label in enumerate(labels.tolist()):
            chosen = case["anchor_gt_index"][image] == number
            if chosen.any():
                theirs, ours = (scores[s][image][chosen, label].log_softmax(0) for s in ("teacher", "student"))
                total = total + (theirs.exp() * (theirs - ours)).sum()
        images.append(total / max(len(labels), 1))
    return torch.stack(images).mean()


def imitation(case: Case, scores: object) -> Tensor:
    names = ("student.cls_logits", "teacher.cls_logits", "student.neck", "teacher.neck")
    levels = [
        ((scores(z) - scores(t)).square().mean(1) * (ours - theirs).square().mean(1)).mean()  # type: ignore[operator]
        for z, t, ours, theirs in zip(*(group(case, name) for name in names), strict=True)
    ]
    return torch.stack(levels).mean()
