"""ReviewKD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torch.nn.functional import batch_norm as norm

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, batch, width, middle, sizes, training in (
        (0, 1, 3, 2, [(5, 7)], 1),
        (1, 3, 4, 6, [(7, 4), (3, 2), (2, 1)], 1),
        (2, 3, 2, 3, [(4, 9), (2, 5), (1, 3)], 0),
        (3, 2, 3, 3, [(3, 2), (2, 2)], 1),
    ):
        draw = Draw(seed).set(weight=0.4, mid_channels=middle, train_mode=training)
        draw.maps("student.neck", batch, width, sizes).maps("teacher.neck", batch, width, sizes)
        for level in range(len(sizes)):
            key = f"param.{level}"
            draw.convolution(f"{key}.lateral.conv", middle, width, bias=False).convolution(
                f"{key}.output.conv", width, middle, 3, bias=False
            )
            for layer, channels in (("lateral", middle), ("output", width)):
                for name in ("weight", "bias", "running_mean"):
                    draw.normal(f"{key}.{layer}.bn.{name}", channels)
                draw.put(f"{key}.{layer}.bn.running_var", draw.random.uniform(0.5, 2, channels).astype(np.float32))
            if level < len(sizes) - 1:
                draw.convolution(f"{key}.attention.conv", 2, 2 * middle)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    ours, theirs = group(case, "student.neck"), group(case, "teacher.neck")
    handed: Tensor | None = None
    found: dict[str, Tensor] = {}
    for level in reversed(range(len(ours))):
        key = f"param.{level}"
        fused = normalise(case, f"{key}.lateral.bn", convolve(case, f"{key}.lateral.conv", ours[level]))
        if handed is not None:
            above = interpolate(handed, ours[level].shape[2:], mode="nearest")
            gates = convolve(case, f"{key}.attention.conv", torch.cat([fused, above], 1)).sigmoid()
            fused = fused * gates[:, :1] + above * gates[:, 1:]
        handed = fused
        output = normalise(case, f"{key}.output.bn", convolve(case, f"{key}.output.conv", fused, padding=1))
        found |= {f"fused.{level}": output, f"hcl.{level}": context_loss(output, theirs[level])}
    return {**found, "total": case["hp.weight"] * add([v for k, v in found.items() if k.startswith("hcl")])}


def normalise(case: Case, key: str, values: Tensor) -> Tensor:
    training = bool(case["hp.train_mode"])
    mean, variance = (case[f"{key}.{name}"].clone() for name in ("running_mean", "running_var"))
    return norm(values, mean, variance, case[f"{key}.weight"], case[f"{key}.bias"], training=training)


def context_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    losses, total, weight = [(ours - theirs).square().mean()], 1.0, 1.0
    for size in (4, 2, 1):
        if size < ours.shape[2]:
            weight /= 2
            losses.append(
                weight * (adaptive_avg_pool2d(ours, size) - adaptive_avg_pool2d(theirs, size)).square().mean()
            )
            total += weight
    return add(losses) / total
