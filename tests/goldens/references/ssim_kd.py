"""SSIM-KD, the windows written out place by place."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.goldens.references import Case, Draw, add, convolve, group

DIFFERENTIATED = {f"grad.{scope}.same": f"total.{scope}.same" for scope in ("tensor", "image")}
SCOPES = {"tensor": (0, 1, 2, 3), "image": (1, 2, 3), "channel": (2, 3)}


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, window, sizes in (
        (0, 1, 3, 5, 3, [(6, 5), (3, 4)]),
        (1, 3, 2, 2, 5, [(6, 9)]),
        (2, 3, 3, 2, 7, [(9, 8), (4, 5)]),
    ):
        draw = Draw(seed).set(window=window, sigma=1.1, k1=0.01, k2=0.03, **{"lambda": 2.0})
        draw.maps("student.neck", batch, ours, sizes).maps("teacher.neck", batch, theirs, sizes)
        for level in range(len(sizes)):
            draw.convolution(f"param.{level}.adapter", theirs, ours)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    found, window = {}, int(case["hp.window"])
    for scope, dims in SCOPES.items():
        for border in ("same", "valid"):
            levels = []
            for level, (ours, theirs) in enumerate(
                zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)
            ):
                pair = [scaled(convolve(case, f"param.{level}.adapter", ours), dims), scaled(theirs, dims)]
                if border == "same":
                    pair = [pad(t, (window // 2,) * 4, mode="reflect") for t in pair]
                if min(pair[0].shape[2:]) >= window:
                    levels.append(dissimilarity(case, *pair))
                    found[f"level.{scope}.{border}.{level}"] = levels[-1]
            if len(levels) == len(group(case, "student.neck")):
                found[f"total.{scope}.{border}"] = case["hp.lambda"] * add(levels)
            else:
                found = {key: value for key, value in found.items() if not key.startswith(f"level.{scope}.{border}")}
    return found


def scaled(features: Tensor, dims: tuple[int, ...]) -> Tensor:
    least, most = features.amin(dims, keepdim=True), features.amax(dims, keepdim=True)
    return (features - least) / (most - least)


def dissimilarity(case: Case, ours: Tensor, theirs: Tensor) -> Tensor:
    window = int(case["hp.window"])
    places = torch.arange(window).double() - window // 2
    side = torch.exp(-places.square() / (2 * case["hp.sigma"] ** 2))
    weights = torch.outer(side, side) / torch.outer(side, side).sum()
    values = []
    for y in range(ours.shape[2] - window + 1):
        for x in range(ours.shape[3] - window + 1):
            s, t = (features[:, :, y : y + window, x : x + window] for features in (ours, theirs))
            mean, target = (s * weights).sum((2, 3)), (t * weights).sum((2, 3))
            spread, target_spread = (s * s * weights).sum((2, 3)) - mean**2, (t * t * weights).sum((2, 3)) - target**2
            shared = (s * t * weights).sum((2, 3)) - mean * target
            first, second = case["hp.k1"] ** 2, case["hp.k2"] ** 2
            above = (2 * mean * target + first) * (2 * shared + second)
            below = (mean**2 + target**2 + first) * (spread + target_spread + second)
            values.append((1 - above / below) / 2)
    return torch.stack(values).mean()
