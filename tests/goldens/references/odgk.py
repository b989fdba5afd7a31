"""ODGK's terms, for given prototypes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from tests.goldens.references import Case, Draw, add, convolve, divergence, group, level_of

SIZE = (48, 64)


def cases() -> Iterator[Draw]:
    for seed, counts, width, strides, starts, staged in (
        (0, [2, 0, 3], 3, (4, 8), (0, 1, 3), 1),
        (1, [1], 4, (4, 8, 16), (0, 2, 4), 1),
        (2, [0, 0], 3, (8, 16), (0, 2, 3), 0),
        (3, [0, 4, 1], 5, (4, 8), (0, 3, 4), 0),
        (4, [0], 3, (4,), (0, 1, 2), 1),
    ):
        draw = Draw(seed).set(epoch=3, max_epochs=10, w_fg=1.5, w_bg=0.5, w_g=2.0, one_stage=1 - staged)
        draw.put("strides", strides).put("prototype_class_start", starts).boxes(counts, SIZE)
        grids = [(SIZE[0] // s, SIZE[1] // s) for s in strides]
        draw.maps("student.neck", len(counts), width, grids).maps("teacher.neck", len(counts), width, grids)
        for level in range(len(strides)):
            draw.convolution(f"param.adapter.{level}", width, width, 3)
            for side in ("student", "teacher"):
                draw.normal(f"{side}.prototypes.{level}", starts[-1], width)
        for image, count in enumerate(counts):
            draw.put(f"labels.{image}", draw.random.integers(2, size=count))
            draw.put(f"boxes.{image}", draw.arrays.pop(f"gt_boxes.{image}"))
        if staged:
            total = sum(counts)
            draw.set(temperature=3.0).put("roi_level", draw.random.integers(len(strides), size=total))
            for side in ("student", "teacher"):
                draw.normal(f"{side}.roi_logits", total, 3).normal(f"{side}.roi", total, width, 7, 7)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    if "student.neck.0" not in case:
        return {}
    boxes, labels, strides = group(case, "boxes"), group(case, "labels"), case["strides"].tolist()
    joined, parts, found = torch.cat(labels), {"fg": [], "bg": [], "glob": []}, {}
    for level, stride in enumerate(strides):
        ours, theirs = case[f"student.neck.{level}"], case[f"teacher.neck.{level}"]
        places = [
            table(case, side, level, vectors(maps, boxes, stride))
            for side, maps in (("student", ours), ("teacher", theirs))
        ]
        trust = trusted(case, places, joined)
        counts = [len(own) for own in boxes]
        for image, own in enumerate(trust.split(counts)):
            if len(own):
                found[f"rdm_weight.{level}.{image}"] = own
        mask = weighted(theirs, boxes, trust.split(counts), level, len(strides), stride)
        error = (convolve(case, f"param.adapter.{level}", ours, padding=1) - theirs).square()
        for name, cells in (("fg", mask), ("bg", (mask == 0).to(mask))):
            parts[name].append((error * cells).sum() / (2 * ours.shape[1] * cells.sum()).clamp(min=1))
        different = smooth_l1_loss(trust[:, None] * places[0], trust[:, None] * places[1], reduction="sum")
        parts["glob"].append(different / max(places[0].numel(), 1))
    fade = 1 - case["hp.epoch"] / case["hp.max_epochs"]
    join = add if case["hp.one_stage"] else (lambda values: torch.stack(values).mean())
    found |= {name: fade * case[f"hp.w_{name}"] * join(parts[name]) for name in ("fg", "bg")}
    found["glob"] = fade * case["hp.w_g"] * add(parts["glob"])
    if "student.roi" in case:
        found |= soft(case, joined)
    return {**found, "total": add([found[name] for name in ("fg", "bg", "glob", "soft") if name in found])}


def vectors(maps: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
    rows = []
    for image, own in enumerate(boxes):
        for x0, y0, x1, y1 in (own / stride).int().tolist():
            rows.append(maps[image, :, y0 : y1 + 1, x0 : x1 + 1].mean((1, 2)))
    return torch.stack(rows) if rows else maps.new_zeros(0, maps.shape[1])


def table(case: Case, side: str, level: int, rows: Tensor) -> Tensor:
    prototypes = case[f"{side}.prototypes.{level}"]
    return torch.nn.functional.cosine_similarity(rows[:, None], prototypes[None], dim=2)


def trusted(case: Case, places: list[Tensor], labels: Tensor) -> Tensor:
    starts = case["prototype_class_start"].tolist()
    best = [
        torch.stack(
            [row[starts[label] : starts[label + 1]].amax() for row, label in zip(place, labels.tolist(), strict=True)]
            or [place.sum()]
        )
        for place in places
    ]
    return (1 - (best[0] - best[1]).abs()).detach()[: len(labels)]


def weighted(
    like: Tensor, boxes: list[Tensor], trust: tuple[Tensor, ...], level: int, levels: int, stride: int
) -> Tensor:
    mask = like.new_zeros(len(like), 1, *like.shape[2:])
    for image, own in enumerate(boxes):
        for box, weight in zip(own, trust[image], strict=True):
            if level_of(box, levels) == level:
                x0, y0, x1, y1 = (box / stride).int().tolist()
                if x0 == x1 or y0 == y1:
                    mask[image, 0, y0, x0] = torch.maximum(mask[image, 0, y0, x0], weight)
                else:
                    mask[image, 0, y0:y1, x0:x1] = weight
    return mask


def soft(case: Case, labels: Tensor) -> dict[str, Tensor]:
    weights = []
    for row, level in enumerate(case["roi_level"].tolist()):
        places = [
            table(case, side, level, case[f"{side}.roi"][row : row + 1].mean((2, 3))) for side in ("student", "teacher")
        ]
        weights.append(trusted(case, places, labels[row : row + 1]))
    trust = torch.cat([*weights, torch.zeros(0).double()])
    rows = divergence(case["teacher.roi_logits"], case["student.roi_logits"], case["hp.temperature"])
    count = max(case["student.roi_logits"].numel(), 1)
    return {"rdm_weight.roi": trust, "soft": (trust * rows).sum() / count}
