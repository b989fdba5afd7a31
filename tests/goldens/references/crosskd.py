"""CrossKD on the heads of GFL, RetinaNet and ATSS."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, group_norm, relu

from tests.goldens.references import Case, Draw, add, convolve, divergence, group

WIDTH, STRIDES = 8, (8, 16)


def cases() -> Iterator[Draw]:
    for seed, kind, reused, batch, sizes in (
        (0, "atss", 1, 1, [(5, 4), (3, 2)]),
        (1, "atss", 3, 3, [(4, 6), (2, 3)]),
        (2, "retina", 2, 3, [(4, 3), (2, 2)]),
        (3, "gfl", 2, 1, [(5, 6), (3, 3)]),
        (4, "gfl", 1, 3, [(4, 4), (2, 2)]),
    ):
        classes, anchors, bins = 3, 2 if kind == "retina" else 1, 6 if kind == "gfl" else 0
        draw = Draw(seed).set(reused_head_index=reused, w_cls=0.7, w_reg=1.3, avg_factor=5.0, beta=1.0, reg_max=bins)
        draw.set(num_classes=classes, anchors_per_cell=anchors, gn_groups=0 if kind == "retina" else 4)
        draw.put("strides", STRIDES).maps("student.neck", batch, WIDTH, sizes).maps("teacher.neck", batch, WIDTH, sizes)
        for side in ("student", "teacher"):
            head(draw, f"param.{side}", kind, classes * anchors, 4 * (bins + 1) * anchors, len(sizes))
        if kind == "gfl":
            draw.set(w_pkd=2.0)
        else:
            draw.set(delta_stds=np.float32([0.1, 0.1, 0.2, 0.2] if kind == "atss" else [1, 1, 1, 1]))
        for level, (height, width) in enumerate(sizes):
            places = height * width * anchors
            draw.put(f"label_weights.{level}", (draw.random.uniform(size=(batch, places)) > 0.2).astype(np.float32))
            if kind == "atss":
                draw.put(f"labels.{level}", draw.random.integers(classes + 1, size=(batch, places)))
            if kind != "gfl":
                draw.boxes([places], (height * STRIDES[level], width * STRIDES[level]), key="drawn", least=8)
                draw.put(f"anchors.{level}", draw.arrays.pop("drawn.0"))
        yield draw


def head(draw: Draw, key: str, kind: str, scores: int, sides: int, levels: int) -> None:
    for branch in ("cls_convs", "reg_convs"):
        for block in range(4):
            draw.convolution(f"{key}.{branch}.{block}.conv", WIDTH, WIDTH, 3, bias=kind == "retina")
            if kind != "retina":
                draw.normal(f"{key}.{branch}.{block}.gn.weight", WIDTH).normal(f"{key}.{branch}.{block}.gn.bias", WIDTH)
    draw.convolution(f"{key}.{kind}_cls", scores, WIDTH, 3).convolution(f"{key}.{kind}_reg", sides, WIDTH, 3)
    if kind == "atss":
        draw.convolution(f"{key}.atss_centerness", 1, WIDTH, 3)
    for level in range(levels if kind != "retina" else 0):
        draw.put(f"{key}.scales.{level}.scale", np.float32(0.6 + 0.5 * level))


def reference(case: Case) -> dict[str, Tensor]:
    kind = next(name for name in ("gfl", "atss", "retina") if f"param.student.{name}_cls.weight" in case)
    reused, found, parts = int(case["hp.reused_head_index"]), {}, {"cls": [], "reg": [], "center": [], "feat": []}
    weights = []
    names = ("student.neck", "teacher.neck", "label_weights")
    for level, (ours, theirs, label_weights) in enumerate(zip(*(group(case, name) for name in names), strict=True)):
        towers = {}
        for branch in ("cls_convs", "reg_convs"):
            held = [run(case, f"param.{s}.{branch}", m, 0, reused) for s, m in (("student", ours), ("teacher", theirs))]
            crossed = align(*held)
            rest = run(case, f"param.teacher.{branch}", relu(crossed), reused, 4)
            own = run(case, f"param.teacher.{branch}", relu(held[1]), reused, 4)
            towers[branch] = [relu(t) for t in (rest, own)]
            if branch == "cls_convs":
                found[f"aligned_cls.{level}"] = crossed
        logits = [convolve(case, f"param.teacher.{kind}_cls", t, padding=1) for t in towers["cls_convs"]]
        scale = case.get(f"param.teacher.scales.{level}.scale", torch.tensor(1.0))
        sides = [scale * convolve(case, f"param.teacher.{kind}_reg", t, padding=1) for t in towers["reg_convs"]]
        found |= {f"cross_cls_logits.{level}": logits[0], f"teacher_cls_logits.{level}": logits[1]}
        found |= {f"cross_box_output.{level}": sides[0], f"teacher_box_output.{level}": sides[1]}
        (z, target), anchors = (rows(t, int(case["hp.num_classes"])) for t in logits), int(case["hp.anchors_per_cell"])
        entropy = binary_cross_entropy_with_logits(z, target.sigmoid(), reduction="none")
        quality = entropy * (z.sigmoid() - target.sigmoid()).abs() ** case["hp.beta"]
        parts["cls"].append((label_weights[..., None] * quality).sum() / case["hp.avg_factor"])
        trust = target.sigmoid().amax(-1) * (label_weights > 0)
        weights.append(trust)
        if kind == "gfl":
            edges = [rows(t, t.shape[1]).unflatten(-1, (4, -1)) for t in sides]
            parts["reg"].append((trust[..., None] * divergence(edges[1], edges[0], 1.0)).sum() / 4)
            parts["feat"].append((standard(ours) - standard(theirs)).square().mean() / 2)
            continue
        boxes = [decode(case, rows(t, t.shape[1] // anchors), case[f"anchors.{level}"]) for t in sides]
        parts["reg"].append((trust * (1 - giou(*boxes))).sum() / case["hp.avg_factor"])
        if kind == "atss":
            near = [
                convolve(case, "param.teacher.atss_centerness", t, padding=1).flatten(1) for t in towers["reg_convs"]
            ]
            chosen = case[f"labels.{level}"] < case["hp.num_classes"]
            center = binary_cross_entropy_with_logits(near[0], near[1].sigmoid(), reduction="none")
            parts["center"].append((center * chosen).sum() / case["hp.avg_factor"])
    boxes_term = case["hp.w_reg"] * add(parts["reg"])
    terms = {"loss_cls_kd": case["hp.w_cls"] * add(parts["cls"])}
    terms["loss_reg_kd"] = boxes_term / add([w.sum() for w in weights]) if kind == "gfl" else boxes_term
    if kind == "atss":
        terms["loss_center_kd"] = add(parts["center"])
    if kind == "gfl":
        terms["loss_feat_kd"] = case["hp.w_pkd"] * add(parts["feat"])
    return {**found, **terms, "total": add(list(terms.values()))}


def run(case: Case, key: str, features: Tensor, first: int, last: int) -> Tensor:
    """Blocks of a tower, the last one before its ReLU."""
    for block in range(first, last):
        features = convolve(case, f"{key}.{block}.conv", features if block == first else relu(features), padding=1)
        if f"{key}.{block}.gn.weight" in case:
            weight, bias = case[f"{key}.{block}.gn.weight"], case[f"{key}.{block}.gn.bias"]
            features = group_norm(features, int(case["hp.gn_groups"]), weight, bias)
    return features


def standard(features: Tensor) -> Tensor:
    dims = (0, 2, 3)
    return (features - features.mean(dims, keepdim=True)) / (features.std(dims, keepdim=True) + 1e-6)


def align(ours: Tensor, theirs: Tensor) -> Tensor:
    dims = (0, 2, 3)
    return standard(ours) * theirs.std(dims, keepdim=True) + theirs.mean(dims, keepdim=True)


def rows(features: Tensor, channels: int) -> Tensor:
    return features.permute(0, 2, 3, 1).reshape(len(features), -1, channels)


def decode(case: Case, deltas: Tensor, anchors: Tensor) -> Tensor:
    moves = deltas * case["hp.delta_stds"]
    side, bound = anchors[:, 2:] - anchors[:, :2], abs(math.log(0.016))
    center = (anchors[:, :2] + anchors[:, 2:]) / 2 + moves[..., :2] * side
    half = side * moves[..., 2:].clamp(-bound, bound).exp() / 2
    return torch.cat([center - half, center + half], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union, hull = union.clamp(min=1e-6), hull.clamp(min=1e-6)
    return shared / union - (hull - union) / hull
