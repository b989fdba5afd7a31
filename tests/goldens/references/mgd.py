"""MGD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.nn.functional import relu

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, sizes, ratio in (
        (0, 1, 3, 3, [(5, 7)], 0.5),
        (1, 3, 4, 2, [(6, 4), (3, 2), (1, 1)], 0.2),
        (2, 3, 3, 3, [(4, 9)], 1.0),
    ):
        draw = Draw(seed).set(alpha=0.03, mask_ratio=ratio)
        draw.maps("student.neck", batch, ours, sizes).maps("teacher.neck", batch, theirs, sizes)
        for level, size in enumerate(sizes):
            kept = draw.random.uniform(size=(batch, 1, *size)) <= 1 - ratio
            draw.put(f"mask.{level}", kept.astype(np.float32))
            for layer in ("conv1", "conv2"):
                draw.convolution(f"param.{level}.generator.{layer}", theirs, theirs, 3)
            if ours != theirs:
                draw.convolution(f"param.{level}.align", theirs, ours)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    losses = []
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        masked = convolve(case, f"param.{level}.align", ours) * case[f"mask.{level}"]
        hidden = relu(convolve(case, f"param.{level}.generator.conv1", masked, padding=1))
        rebuilt = convolve(case, f"param.{level}.generator.conv2", hidden, padding=1)
        losses.append(case["hp.alpha"] * (rebuilt - theirs).square().sum() / len(ours))
    return {"total": add(losses)}
