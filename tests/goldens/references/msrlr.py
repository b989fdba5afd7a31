"""MSRLR: the student's half-size maps against the fused ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import relu

from tests.goldens.references import Case, Draw, add, group, project

DIFFERENTIATED = {"grad": "kd"}


def cases() -> Iterator[Draw]:
    for seed, batch, width, sizes, iteration, reduction in (
        (0, 1, 4, [(5, 7)], 9, 2),
        (1, 3, 6, [(6, 4), (3, 2), (2, 1), (1, 1)], 1000, 3),
        (2, 3, 2, [(4, 4), (2, 2)], 0, 1),
    ):
        draw = Draw(seed).set(alpha=0.3, tau=2.0, iteration=iteration, warmup_iters=20, reduction=reduction)
        for side in ("teacher.high", "teacher.low", "student.low"):
            draw.maps(side, batch, width, sizes)
        draw.normal("image_high", batch, 3, 2 * sizes[0][0], 2 * sizes[0][1])
        yield draw.linear("param.fc1", 2 * width // reduction, 2 * width, False).linear(
            "param.fc2", 2, 2 * width // reduction, False
        )


def reference(case: Case) -> dict[str, Tensor]:
    losses, found = [], {"image_low": case["image_high"][..., ::2, ::2]}
    names = ("teacher.high", "teacher.low", "student.low")
    for level, (high, low, ours) in enumerate(zip(*(group(case, name) for name in names), strict=True)):
        pooled = torch.cat([high, low], 1).mean((2, 3))
        gates = project(case, "param.fc2", relu(project(case, "param.fc1", pooled))).softmax(1)
        fused = gates[:, 0, None, None, None] * high + gates[:, 1, None, None, None] * low
        found |= {f"gates.{level}": gates, f"fused.{level}": fused}
        losses.append((ours - fused).abs().mean())
    ramp = min(float(case["hp.iteration"] / case["hp.warmup_iters"]), 1.0)
    probe = add([value.square().mean() for key, value in found.items() if key.startswith("fused.")])
    return {**found, "probe": probe, "kd": ramp * case["hp.alpha"] * case["hp.tau"] * add(losses)}
