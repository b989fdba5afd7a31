"""HEAD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, add, group, project


def cases() -> Iterator[Draw]:
    for seed, batch, rows, sizes, iteration, anchors in (
        (0, 1, 3, [(4, 5)], 7, 0),
        (1, 3, 9, [(4, 6), (2, 3), (1, 1)], 100, 3),
        (2, 2, 4, [(3, 3)], 0, 0),
        (3, 1, 2, [(3, 2)], 50, 2),
    ):
        draw = Draw(seed).set(w_fc=2.0, w_cross=0.7, warmup_iters=50, iteration=iteration, per_anchor=int(anchors > 0))
        for key in ("assistant.fc1", "assistant.fc2", "teacher.fc1", "teacher.fc2"):
            draw.normal(key, rows, 6)
        draw.maps("student.cls_tower", batch, 4, sizes).linear("param.a1", 6, 6).linear("param.a2", 6, 6)
        source = np.zeros((rows, 5), np.float32)
        for row in source[1:] if seed != 3 else []:  # the first was a ground-truth box; all were in the last case
            level = draw.random.integers(len(sizes))
            row[:] = (
                draw.random.integers(batch),
                level,
                *draw.random.integers(sizes[level]),
                draw.random.integers(max(anchors, 1)),
            )
        source[(source == 0).all(1), 1] = -1
        draw.put("box_source", source)
        if anchors:
            yield draw.normal("param.a3.weight", anchors, 6, 4).normal("param.a3.bias", anchors, 6)
        else:
            yield draw.linear("param.a3", 6, 4)


def reference(case: Case) -> dict[str, Tensor]:
    ramp = min(float(case["hp.iteration"] / case["hp.warmup_iters"]), 1.0)
    found = {
        f"fc{k}": ramp
        * case["hp.w_fc"]
        * (project(case, f"param.a{k}", case[f"assistant.fc{k}"]) - case[f"teacher.fc{k}"]).square().mean()
        for k in (1, 2)
    }
    towers, errors = group(case, "student.cls_tower"), []
    for (image, level, row, column, anchor), target in zip(
        case["box_source"].long().tolist(), case["teacher.fc2"], strict=True
    ):
        if level >= 0:
            cell = towers[level][image, :, row, column]
            weight, bias = case["param.a3.weight"], case["param.a3.bias"]
            own = (weight[anchor], bias[anchor]) if case["hp.per_anchor"] else (weight, bias)
            errors.append((own[0] @ cell + own[1] - target).square())
    cross = torch.stack(errors).mean() if errors else 0 * add([tower.sum() for tower in towers])
    found["cross"] = ramp * case["hp.w_cross"] * cross
    return {**found, "total": add(list(found.values()))}
