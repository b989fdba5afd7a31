"""PGD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, add, group, overlaps

DIFFERENTIATED: dict[str, str] = {}


def cases() -> Iterator[Draw]:
    for seed, counts, width, classes, k, sizes in (
        (0, [2, 0, 1], 3, 2, 5, [(4, 6), (2, 3)]),
        (1, [1], 5, 4, 40, [(3, 3), (2, 2), (1, 1)]),
        (2, [3, 1], 2, 1, 1, [(5, 4)]),
    ):
        strides = [8 << level for level in range(len(sizes))]
        draw = Draw(seed).set(
            alpha=0.3, beta=0.1, gamma=0.2, delta=0.05, T=0.7, K=k, xi_cls=0.7, xi_reg=0.5, fit_noise=0,
            level_weights=np.linspace(1, 2, len(sizes)),
        )
        priors = [cells(size, stride) for size, stride in zip(sizes, strides, strict=True)]
        draw.put("priors", np.concatenate(priors)).put("priors_per_level", [len(level) for level in priors])
        batch, places = len(counts), sum(map(len, priors))
        draw.boxes(counts, (8 * sizes[0][0], 8 * sizes[0][1]), least=9.0)
        for image, count in enumerate(counts):
            draw.put(f"gt_labels.{image}", draw.random.integers(classes, size=count))
        draw.normal("teacher.cls_logits_flat", batch, places, classes)
        moved = np.concatenate(priors) + draw.random.normal(0, 3, (batch, places, 4))
        far = moved[..., :2] + 9 + np.abs(moved[..., 2:])
        draw.put("teacher.boxes_flat", np.concatenate([moved[..., :2], far], -1).astype(np.float32))
        for side in ("student", "teacher"):
            draw.maps(f"{side}.cls_tower", batch, width, sizes).maps(f"{side}.reg_tower", batch, width, sizes)
        case = {key: torch.as_tensor(value) for key, value in draw.arrays.items()}
        for name, xi in (("weight_cls", "xi_cls"), ("weight_reg", "xi_reg")):
            draw.put(f"expected.{name}", bells(case, float(case[f"hp.{xi}"])).float().numpy())
        yield draw


def cells(size: tuple[int, int], stride: int) -> np.ndarray:
    y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    corner = np.stack([x, y], -1).reshape(-1, 2) * stride
    return np.concatenate([corner, corner + stride], 1).astype(np.float32)


def bells(case: Case, xi: float) -> Tensor:
    centers = (case["priors"][:, :2] + case["priors"][:, 2:]).double() / 2
    images = []
    for image, (boxes, labels) in enumerate(zip(group(case, "gt_boxes"), group(case, "gt_labels"), strict=True)):
        weight = torch.zeros(len(centers), dtype=torch.float64)
        fit = overlaps(case["teacher.boxes_flat"][image].double(), boxes.double())
        for number, label in enumerate(labels.tolist()):
            score = case["teacher.cls_logits_flat"][image, :, label].double().sigmoid()
            quality = score ** (1 - xi) * fit[:, number] ** xi
            best = quality.argsort(descending=True)[: int(case["hp.K"])]
            away = centers[best] - centers[best].mean(0)
            spread = away.T @ away / len(best)
            determinant = spread[0, 0] * spread[1, 1] - spread[0, 1] ** 2 + 1e-10
            inverse = torch.stack([spread[1, 1], -spread[0, 1], -spread[0, 1], spread[0, 0]]).view(2, 2) / determinant
            value = (-0.5 * torch.einsum("ki,ij,kj->k", away, inverse, away)).exp()
            box = boxes[number].double()
            value = value * ((centers[best] > box[:2]) & (centers[best] < box[2:])).all(1)
            weight[best] = torch.maximum(weight[best], value)
        images.append(weight)
    return torch.stack(images)


def reference(case: Case) -> dict[str, Tensor]:
    counts = case["priors_per_level"].tolist()
    background = torch.stack([outside(case, boxes) for boxes in group(case, "gt_boxes")])
    found: dict[str, Tensor] = {"background": background}
    sides = {
        name: zip(group(case, f"student.{name}"), group(case, f"teacher.{name}"), strict=True)
        for name in ("cls_tower", "reg_tower")
    }
    weights = [bells(case, float(case[f"hp.{xi}"])) for xi in ("xi_cls", "xi_reg")]
    maps = zip(*(own.split(counts, 1) for own in (*weights, background)), strict=True)
    for level, (classes, boxes, masks) in enumerate(zip(sides["cls_tower"], sides["reg_tower"], maps, strict=True)):
        found[f"loss_cls.{level}"] = class_term(case, classes, masks[0], masks[2], case["hp.level_weights"][level])
        found[f"loss_reg.{level}"] = box_term(case, boxes, masks[1])
    return found


def outside(case: Case, boxes: Tensor) -> Tensor:
    centers = (case["priors"][:, None, :2] + case["priors"][:, None, 2:]) / 2
    return 1 - ((centers > boxes[:, :2]) & (centers < boxes[:, 2:])).all(2).any(1).double()


def class_term(case: Case, sides: tuple[Tensor, Tensor], objects: Tensor, rest: Tensor, scale: Tensor) -> Tensor:
    (ours, theirs), temperature = sides, case["hp.T"]
    places = [s.abs().mean(1).flatten(1).div(temperature).softmax(1) * s[0, 0].numel() for s in sides]
    channels = [s.abs().div(temperature).softmax(1) * s.shape[1] for s in sides]
    error = ((ours - theirs).square() * channels[1]).sum(1).flatten(1) * places[1]
    parts = [
        weight * add([(own * e).sum() / max(int((own > 0).sum()), 1) for own, e in zip(mask, error, strict=True)])
        for weight, mask in ((case["hp.alpha"], objects), (case["hp.beta"], rest))
    ]
    attention = (channels[0] - channels[1]).abs().sum() / ours[0, 0].numel() + (places[0] - places[1]).abs().sum()
    return (scale * add(parts) + case["hp.delta"] * attention) / len(ours)


def box_term(case: Case, sides: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    ours, theirs = sides
    channels = [s.abs().div(case["hp.T"]).softmax(1) * s.shape[1] for s in sides]
    error = ((ours - theirs).square() * channels[1]).mean(1).flatten(1)
    apart = (channels[0] - channels[1]).abs().sum(1).flatten(1)
    chosen = weight > 0
    count = max(int(chosen.sum()), 1)
    return (case["hp.gamma"] * (weight * error)[chosen].sum() + case["hp.delta"] * apart[chosen].sum()) / count
