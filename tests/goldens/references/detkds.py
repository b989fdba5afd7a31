"""DetKDS: whole maps, objects and rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize, pad
from torchvision.ops import roi_align

from tests.goldens.references import Case, Draw, convolve, fgd, group

DIFFERENTIATED = {"grad": "all"}
PARTS = tuple(itertools.product(("fg", "bg", "instance"), ("student", "teacher")))


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
    yield from instances()


def instances() -> Iterator[Draw]:
    """Objects on every level, alone and with all other terms."""
    for seed, counts, ours, theirs, whole in ((3, [2, 0, 1], 3, 4, False), (4, [1, 2], 3, 3, True)):
        sizes = [(8, 6), (4, 3)]
        draw = Draw(seed).set(gamma_instances=2.0).boxes(counts, (60, 50), key="boxes")
        draw.maps("student.neck", len(counts), ours, sizes).maps("teacher.neck", len(counts), theirs, sizes)
        for image in range(len(counts)):
            draw.put(f"image_size.{image}", (60 - 3 * image, 50 + image))
        if whole:
            draw.set(gamma_global=3.0, gamma_fbg=1.5, gamma_logits=0.7)
            draw.maps("student.head.cls", len(counts), 3, sizes).maps("teacher.head.cls", len(counts), 3, sizes)
        for level, size in enumerate(sizes):
            if ours != theirs:
                draw.convolution(f"param.align.{level}", theirs, ours)
            for key in itertools.starmap("{}_{}".format, PARTS) if whole else ():
                low = 0.0 if key.startswith("instance") else 1.0  # every place is kept: hidden ones leave rounding to decide
                drawn = draw.random.uniform(size=(len(counts), 1, *size)) * low
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
        if "hp.gamma_instances" in case:
            terms["instance"] = case["hp.gamma_instances"] * instance(case, pair, level)
        if "hp.gamma_logits" in case:
            scores = [case[f"{side}.head.cls.{level}"].sigmoid().softmax(1) for side in ("student", "teacher")]
            terms["logit"] = case["hp.gamma_logits"] * uncorrelated(*scores)
        total = torch.stack(list(terms.values())).sum()
        found |= {f"{name}.{level}": value for name, value in terms.items()} | {f"total.{level}": total}
        all_terms.append(total)
    return {**found, "all": torch.stack(all_terms).sum()}


def instance(case: Case, pair: list[Tensor], level: int) -> Tensor:
    masked = f"draw.instance_student.{level}" in case
    if masked:
        kept = [case[f"draw.instance_{side}.{level}"] <= 0.35 for side in ("student", "teacher")]
        maps = [normalize(t * k, dim=1) for t, k in zip(pair, kept, strict=True)]
    else:
        maps = [normalize(attended(t), dim=1) for t in pair]
    boxes = []
    for own, size in zip(group(case, "boxes"), group(case, "image_size"), strict=True):
        x, y = pair[0].shape[3] / float(size[1]), pair[0].shape[2] / float(size[0])
        cells = own.double() * torch.tensor([x, y, x, y]).double()
        boxes.append(torch.cat([cells[:, :2].floor(), cells[:, 2:].ceil()], 1))
    blocks = [roi_align(t, boxes, 14, 1.0, -1, False) for t in maps]
    return uncorrelated(*blocks) if masked else gap(*blocks)


def uncorrelated(ours: Tensor, theirs: Tensor) -> Tensor:
    a, b = (t - t.mean(1, keepdim=True) for t in (ours, theirs))
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()


def attended(features: Tensor) -> Tensor:
    attention = features.shape[1] * (features.abs().mean((2, 3)) / 0.5).softmax(1)
    return features * attention.sqrt()[..., None, None]


def gap(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean()


def peaks(features: Tensor) -> Tensor:
    return max_pool2d(pad(attended(features), (0, features.shape[3] % 2, 0, features.shape[2] % 2)), 2)


def cells(features: Tensor) -> Tensor:
    even = pad(features, (0, -features.shape[3] % 4, 0, -features.shape[2] % 4))
    parts = [
        even[:, :, y : y + 4, x : x + 4]
        / even[:, :, y : y + 4, x : x + 4].flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None]
        for y in range(0, even.shape[2], 4)
        for x in range(0, even.shape[3], 4)
    ]
    return torch.cat(parts, 1)
