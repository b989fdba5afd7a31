"""DetKDS: whole maps, objects and rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize, pad

from tests.goldens.references import Case, Draw, convolve, fgd, group

DIFFERENTIATED = {"grad": "all"}


def cases() -> Iterator[Draw]:
    for seed, counts, ours, theirs, sizes, random in (
        (0, [2, 0], 3, 5, [(7, 6), (3, 2)], False),
        (1, [0, 0, 0], 4, 4, [(8, 4)], False),
        (2, [3, 1, 0], 2, 2, [(6, 5), (2, 3), (1, 1)], True),
    ):
        draw = Draw(seed).set(gamma_global=3.0, gamma_fbg=1.5).boxes(counts, (60, 50), key="boxes")
        draw.maps("student.neck", len(counts), ours, sizes).maps("teacher.neck", len(counts), theirs, sizes)
        for image in range(len(counts)):
            draw.put(f"image_size.{image}", (60 - 3 * image, 50 + image))
        for level, size in enumerate(sizes):
            if ours != theirs:
                draw.convolution(f"param.align.{level}", theirs, ours)
            for key in ("fg_student", "fg_teacher", "bg_student", "bg_teacher") if random else ():
                drawn = draw.random.uniform(size=(len(counts), 1, *size))
                draw.put(f"draw.{key}.{level}", drawn.astype(np.float32))
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    found, all_terms = {}, []
    sizes = torch.stack([torch.as_tensor(size) for size in group(case, "image_size")])
    boxed = {**case, "image_sizes": sizes, **{f"gt_boxes.{i}": own for i, own in enumerate(group(case, "boxes"))}}
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        pair = [convolve(case, f"param.align.{level}", ours), theirs]
        terms = {}
        if "hp.gamma_global" in case:
            terms["global"] = case["hp.gamma_global"] * gap(*[normalize(peaks(t), dim=0) for t in pair])
        if "hp.gamma_fbg" in case:
            for name, weight, mask in zip(("fg", "bg"), (1.0, 0.5), fgd.masks(boxed, theirs), strict=True):
                masked = [t * mask[:, None] for t in pair]
                if f"draw.{name}_student.{level}" in case:
                    kept = [case[f"draw.{name}_{side}.{level}"] <= 0.35 for side in ("student", "teacher")]
                    units = [normalize(t * k, dim=1) for t, k in zip(masked, kept, strict=True)]
                else:
                    units = [cells(t) for t in masked]
                terms[name] = weight * case["hp.gamma_fbg"] * gap(*units)
        total = torch.stack(list(terms.values())).sum()
        found |= {f"{name}.{level}": value for name, value in terms.items()} | {f"total.{level}": total}
        all_terms.append(total)
    return {**found, "all": torch.stack(all_terms).sum()}


def gap(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean()


def peaks(features: Tensor) -> Tensor:
    attention = features.shape[1] * (features.abs().mean((2, 3)) / 0.5).softmax(1)
    attended = features * attention.sqrt()[..., None, None]
    return max_pool2d(pad(attended, (0, features.shape[3] % 2, 0, features.shape[2] % 2)), 2)


def cells(features: Tensor) -> Tensor:
    even = pad(features, (0, -features.shape[3] % 4, 0, -features.shape[2] % 4))
    parts = [
        even[:, :, y : y + 4, x : x + 4]
        / even[:, :, y : y + 4, x : x + 4].flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None]
        for y in range(0, even.shape[2], 4)
        for x in range(0, even.shape[3], 4)
    ]
    return torch.cat(parts, 1)
